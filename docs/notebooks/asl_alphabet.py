# %% [markdown]
# # ASL alphabet: neighbouring frames
#
# The signs of the American manual alphabet, with *delete*, *nothing* and *space*: 29 classes. The images of a class are
# frames of one film, so each image has neighbours that look nearly the same. This page shows how that misleads a test.
#
# It draws its images, so that it needs no download. For the real ones (Kaggle `grassknoted/asl-alphabet`) the same
# steps are `make data`, `make train`, `make evaluate`, `make archive` and `make serve`, each with
# `DATASET=asl_alphabet`.

# %%
from pathlib import Path

import numpy as np
from IPython.display import Image

from serving import archive, server
from serving.client import Client, Prediction
from serving.host import ports
from synthetic import asl_alphabet
from training import configuration, evaluate, pictures
from training.data import prepare
from training.data.progress import plain_console
from training.data.store import PreparedDataset
from training.train import train

# %% [markdown]
# ## Load
#
# One folder holds the frames of one class, numbered in the order of the film.

# %%
raw = Path("data/raw/asl_alphabet")
asl_alphabet.generate(raw, images_per_class=40)
train_folder = raw / "asl_alphabet_train" / "asl_alphabet_train"
print(*sorted(path.name for path in train_folder.iterdir()))
print(*sorted(path.name for path in (train_folder / "A").iterdir())[:4], "...")

# %% [markdown]
# A group is a block of neighbouring frames: 150 in the real data set, 8 in these short films. The network of this page
# is small, so that it takes little time. Without that setting training starts from the pretrained weights of an
# EfficientNet-Lite0.

# %%
settings = ["dataset=asl_alphabet", "store=asl_alphabet", "network=small_cnn"]
settings += ["+dataset.reader_options.frames_per_block=8"]
prepare.run(settings, plain_console())

# %% [markdown]
# ## Look at the data
#
# Six neighbouring frames of three signs. Place, size and light change slowly.

# %%
data = PreparedDataset.open("data/processed/asl_alphabet")
rows = np.concatenate([np.flatnonzero(data.labels == label)[:6] for label in (0, 1, 2)])
pictures.examples(data.images[rows], [data.classes[label] for label in data.labels[rows]], Path("examples.png"))
Image("examples.png")

# %% [markdown]
# ## Train
#
# The same network trains twice. `split.by=image` holds out random frames for the test, `split.by=group` holds out whole
# blocks. The few epochs and the weak augmentation are for this page.

# %%
small = ["trainer.epochs=8", "trainer.ema=0", "trainer.optimizer=adamw", "trainer.lr=0.005"]
small += ["augmentation=[{op: RandomAffine, degrees: 12, translate: [0.1, 0.1], p: 0.9}]"]
runs = {}
for by in ("image", "group"):
    config = configuration.compose([*settings, *small, f"split.by={by}", f"name=asl_by_{by}"])
    runs[by] = train(config)

# %%
Image(runs["group"] / "curves.png")

# %% [markdown]
# ## Evaluate
#
# The first score is higher: it counts frames whose neighbours were trained on. The second one says more about a hand
# that the network has not seen.

# %%
for by, run in runs.items():
    score = evaluate.run(run)["top_1"]
    print(f"held out by {by}: {score['value']:.1%} ({score['low']:.1%} to {score['high']:.1%})")

# %% [markdown]
# ## Look at the mistakes

# %%
Image(runs["group"] / "evaluation" / "mistakes.png")

# %% [markdown]
# ## Ask the server
#
# The layout has one test file for each sign except *delete*. `predict_many` keeps several requests under way, so that
# the server answers them in batches.

# %%
archive.build("asl", "1.0", run=runs["group"])
started = server.start(["asl"], root=Path.cwd(), offset=ports.offset_of_environment())
print(f"{started.models[0].name} {started.models[0].version} is ready after {started.seconds:.0f} s")

# %%
paths = sorted((raw / "asl_alphabet_test" / "asl_alphabet_test").glob("*.jpg"))
with Client(root=Path.cwd()) as client:
    answers = list(client.predict_many([path.read_bytes() for path in paths], "asl"))
labels = [answer.label if isinstance(answer, Prediction) else str(answer) for answer in answers]
print(*(f"{path.stem.removesuffix('_test')}: {label}" for path, label in zip(paths, labels, strict=True)), sep="  ")

# %%
server.stop(root=Path.cwd())
