"""Distinguish label shift from input shift (compare Roschewitz et al. 2024, arXiv:2411.07940).

When only the shares of the classes change, images that get the same answer look as before. So reference and window are
weighted until each answer has the same share in both, and permuted within the answers: a change of the shares is then
of no effect. What such a test rejects is a change of the images. The shifts of all answers are added before they are
squared: a corruption moves all images in much the same direction, chance does not. Summed after squaring, as MMD within
each answer, they hid 20 of 95 corruptions of 96 classes, with one image of an answer in a window.
"""

import numpy as np
import numpy.typing as npt

from monitoring.drift import mmd
from monitoring.drift.mmd import Floats, Indices, Test


def within_answers(
    kernel: Floats, window: npt.NDArray[np.bool_], answers: Indices, random: np.random.Generator, level: float
) -> Test:
    """Return the test of MMD^2 at equal shares of the answers (N,) of pooled images; `window` (N,) are the window's."""
    members = mmd.memberships(window, answers, random)
    return Test.of(mmd.discrepancies(kernel, members, answers), level)
