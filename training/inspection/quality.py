"""Images that are blurred, dark, tiny or of an odd shape, by limits that the style of a whole set does not trip."""

import numpy as np
import numpy.typing as npt

from training.inspection.findings import BLURRED, DARK, ODD_SHAPE, TINY, Finding
from training.inspection.measures import Measures

# An image is blurred if the logarithm of its variance of the Laplacian is this many deviations below the median of the
# set, and the variance itself is below the limit: a set may be soft as a whole, and sharp sets differ, too.
DEVIATIONS, SOFT = 2.5, 30.0
DARKEST = 64.0  # of 255: nothing in a dark image is brighter than a quarter
SMALLEST, LEAST_SHARE = 32, 0.25  # pixels of the shorter side, and its share of the network's
MAX_RATIO, MAX_RATIO_TO_MEDIAN = 2.0, 2.2  # longer side to shorter side, and that of the set's median shape to its own


def findings(measures: Measures, sizes: npt.NDArray[np.int64], image_size: int) -> list[Finding]:
    """Return the findings, for each issue the worst first.

    Args:
        measures: of N images.
        sizes: width and height (N, 2) in pixels, of the images on disk.
        image_size: side in pixels of the network's input.
    """
    logs = np.log(measures.sharpness + 1e-3)
    median = np.median(logs)
    deviation = 1.4826 * np.median(np.abs(logs - median))
    is_blurred = (measures.sharpness < SOFT) & (logs < median - DEVIATIONS * max(deviation, 0.1))
    shorter, ratios = sizes.min(axis=1), sizes.max(axis=1) / np.maximum(sizes.min(axis=1), 1)
    shapes = np.log(sizes[:, 0] / np.maximum(sizes[:, 1], 1))
    is_odd = (ratios >= MAX_RATIO) & (np.abs(shapes - np.median(shapes)) > np.log(MAX_RATIO_TO_MEDIAN))
    return [
        *_findings(BLURRED, is_blurred, measures.sharpness, measures.sharpness),
        *_findings(DARK, measures.brightness < DARKEST, measures.brightness, measures.brightness),
        *_findings(TINY, shorter < max(SMALLEST, LEAST_SHARE * image_size), shorter, shorter),
        *_findings(ODD_SHAPE, is_odd, ratios, -ratios),
    ]


def _findings(
    issue: str, mask: npt.NDArray[np.bool_], values: npt.NDArray[np.generic], order: npt.NDArray[np.generic]
) -> list[Finding]:
    rows = np.flatnonzero(mask)
    return [Finding(int(row), issue, float(values[row])) for row in rows[np.argsort(order[rows], kind="stable")]]
