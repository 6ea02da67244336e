# %% [markdown]
# # Fingers: a flip that changes the label
#
# A left or right hand with 0 to 5 raised fingers: 12 classes of small grey images. This page draws its images, so that
# it needs no download. For the real ones (Kaggle `koryakinp/fingers`) the same steps are `make data`, `make train`,
# `make evaluate`, `make archive` and `make serve`, each with `DATASET=fingers`.

# %%
from pathlib import Path

import numpy as np
from IPython.display import Image

from serving import archive, server
from serving.client import Client
from serving.host import ports
from synthetic import fingers
from training import configuration, evaluate, pictures
from training.data import prepare
from training.data.progress import plain_console
from training.data.store import PreparedDataset
from training.train import train

# %% [markdown]
# ## Load
#
# The label is in the file name: `_3L.png` is a left hand with three fingers up.

# %%
raw = Path("data/raw/fingers")
fingers.generate(raw, images_per_class=60)
print(*sorted(path.name for path in raw.glob("train/*.png"))[:3], sep="\n")

# %% [markdown]
# `prepare` decodes and resizes each image once, with the decoder that the server uses. Training then reads pixels from
# a memory map. A file that is not an image of the data set is left out and reported.

# %%
settings = ["dataset=fingers"]
prepare.run(settings, plain_console())

# %% [markdown]
# ## Look at the data

# %%
data = PreparedDataset.open("data/processed/fingers")
rows = [int(np.flatnonzero(data.labels == label)[0]) for label in range(len(data.classes))]
pictures.examples(data.images[rows], data.classes, Path("examples.png"))
Image("examples.png")

# %% [markdown]
# ## Train
#
# A mirrored left hand is a right hand, so the flip of this data set has a map of labels: it changes `3L` to `3R`.
# The small network and the ten epochs are for this page; without them training takes a ResNet-18.

# %%
small = ["network=small_cnn", "trainer.epochs=10", "trainer.batch_size=32", "trainer.ema=0"]
config = configuration.compose([*settings, *small, "trainer.optimizer=adamw", "trainer.lr=0.005"])
print(config.augmentation[1])

# %%
run = train(config)
Image(run / "curves.png")

# %% [markdown]
# ## Evaluate
#
# Test images are decoded from their files by the code that serves. Each score has a 95 % interval. A class name says
# two things here, so the count and the hand also have scores.

# %%
metrics = evaluate.run(run)
scores = {"class": metrics["top_1"]} | {name: part["top_1"] for name, part in metrics["parts"].items()}
for name, score in scores.items():
    print(f"{name:5} {score['value']:.1%} ({score['low']:.1%} to {score['high']:.1%})")

# %% [markdown]
# ## Look at the mistakes
#
# The most confident mistakes come first.

# %%
Image(run / "evaluation" / "mistakes.png")

# %%
Image(run / "evaluation" / "confusion.png")

# %% [markdown]
# ## Ask the server
#
# The archive holds the network, its preprocessing, and golden images with their answers. A worker that answers these
# differently does not start.

# %%
archive.build("fingers", "1.0")
started = server.start(["fingers"], root=Path.cwd(), offset=ports.offset_of_environment())
print(f"{started.models[0].name} {started.models[0].version} is ready after {started.seconds:.0f} s")

# %%
with Client(root=Path.cwd()) as client:
    for path in sorted(raw.glob("test/*.png"))[:5]:
        answer = client.predict(path.read_bytes(), "fingers")
        print(f"{path.stem[-2:]}: {answer.label} with probability {answer.probabilities[answer.label]:.2f}")

# %%
server.stop(root=Path.cwd())
