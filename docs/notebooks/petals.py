# %% [markdown]
# # Petals: TFRecord files, and a submission
#
# Flowers of 104 classes, in the TFRecord files of the Kaggle competition *Petals to the Metal*. The files of the test
# side hold no labels: Kaggle judges the answers.
#
# This page draws its images, so that it needs no download. For the real ones (`tpu-getting-started`) the same steps are
# `make data`, `make train`, `make evaluate`, `make archive` and `make serve`, each with `DATASET=petals`.

# %%
from pathlib import Path

import numpy as np
from IPython.display import Image

from serving import archive, server
from serving.client import Client
from serving.host import ports
from synthetic import petals
from training import configuration, evaluate, pictures, submission
from training.data import prepare
from training.data.progress import plain_console
from training.data.store import PreparedDataset
from training.train import train

# %% [markdown]
# ## Load
#
# The drawn set has 8 of the 104 classes. No TensorFlow is needed to read the files.

# %%
raw = Path("data/raw/petals")
petals.generate(raw, images_per_class=50, classes=8)
print(*sorted(path.relative_to(raw) for path in raw.glob("tfrecords*/*/*")), sep="\n")

# %% [markdown]
# The images and the network of this page are small, so that it takes little time. Without these two settings the images
# have 224 pixels, and training starts from the pretrained weights of an EfficientNet-Lite0.

# %%
settings = ["dataset=petals", "dataset.image_size=64", "network=small_cnn"]
prepare.run(settings, plain_console())

# %% [markdown]
# ## Look at the data
#
# Classes share their colours. The number, shape and layers of the petals differ.

# %%
data = PreparedDataset.open("data/processed/petals")
present = [label for label in range(len(data.classes)) if np.any(data.labels == label)]
rows = np.concatenate([np.flatnonzero(data.labels == label)[:3] for label in present])
pictures.examples(data.images[rows], [data.classes[label] for label in data.labels[rows]], Path("examples.png"))
Image("examples.png")

# %% [markdown]
# ## Train
#
# The test side has labels here only because the images are drawn. To score a network without these, `split.test=folds`
# would hold out a part of the training images.

# %%
small = ["trainer.epochs=25", "trainer.ema=0", "trainer.train_size=null", "trainer.mix.p=0"]
small += ["trainer.optimizer=adamw", "trainer.lr=0.005"]
run = train(configuration.compose([*settings, *small]))
Image(run / "curves.png")

# %% [markdown]
# ## Evaluate

# %%
metrics = evaluate.run(run)
for name in ("top_1", "top_5", "macro_f1"):
    score = metrics[name]
    print(f"{name:8} {score['value']:.1%} ({score['low']:.1%} to {score['high']:.1%})")

# %% [markdown]
# `submission` writes the file for Kaggle: the class of each test image, as a number.

# %%
path = submission.run(run)
print(*path.read_text().splitlines()[:4], sep="\n")

# %% [markdown]
# ## Look at the mistakes

# %%
Image(run / "evaluation" / "mistakes.png")

# %%
Image(run / "evaluation" / "confusion.png")

# %% [markdown]
# ## Ask the server
#
# An image of a TFRecord file is part of that file. Its record has the offset and the length of its bytes.

# %%
archive.build("petals", "1.0")
started = server.start(["petals"], root=Path.cwd(), offset=ports.offset_of_environment())
print(f"{started.models[0].name} {started.models[0].version} is ready after {started.seconds:.0f} s")

# %%
with Client(root=Path.cwd()) as client:
    for row in np.flatnonzero(data.on_test_side)[:5]:
        answer = client.predict(data.record(int(row)).read(data.raw), "petals")
        print(f"{data.classes[data.labels[row]]}: {answer.label} with {answer.probabilities[answer.label]:.2f}")

# %%
server.stop(root=Path.cwd())
