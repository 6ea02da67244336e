# %% [markdown]
# # Moths: few images, and cross-validation
#
# Moths of many species in `train/`, `valid/` and `test/`, with a few dozen images of each. A test folder this small
# gives a score with a wide interval. Cross-validation tests on every image instead.
#
# This page draws its images, so that it needs no download. For the real ones (Kaggle
# `gpiosenka/moths-image-datasetclassification`) the same steps are `make data`, `make train`, `make evaluate`,
# `make archive` and `make serve`, each with `DATASET=moths`.

# %%
from pathlib import Path

import numpy as np
from IPython.display import Image
from rich.console import Console

from serving import archive, server
from serving.client import Client
from serving.host import ports
from synthetic import moths
from training import configuration, crossvalidate, evaluate, pictures
from training.data import prepare
from training.data.progress import plain_console
from training.data.store import PreparedDataset
from training.train import train

# %% [markdown]
# ## Load

# %%
raw = Path("data/raw/moths")
moths.generate(raw, images_per_class=50, classes=6)
print(*sorted(path.name for path in (raw / "train").iterdir()), sep="\n")

# %% [markdown]
# The images and the network of this page are small, so that it takes little time. Without these two settings the images
# have 224 pixels, and training starts from the pretrained weights of an EfficientNet-Lite0.

# %%
settings = ["dataset=moths", "dataset.image_size=64", "network=small_cnn"]
prepare.run(settings, plain_console())

# %% [markdown]
# ## Look at the data
#
# Species share their colours. Their wing shapes and markings differ.

# %%
data = PreparedDataset.open("data/processed/moths")
rows = np.concatenate([np.flatnonzero(data.labels == label)[:2] for label in range(len(data.classes))])
pictures.examples(data.images[rows], [data.classes[label] for label in data.labels[rows]], Path("examples.png"))
Image("examples.png")

# %% [markdown]
# ## Train
#
# With few images, augmentation matters. These operations run on whole batches, with Kornia:

# %%
small = ["trainer.epochs=25", "trainer.ema=0", "trainer.train_size=null", "trainer.mix.p=0"]
small += ["trainer.optimizer=adamw", "trainer.lr=0.005"]
config = configuration.compose([*settings, *small])
print(*(operation.op for operation in config.augmentation), sep="\n")

# %%
run = train(config)
Image(run / "curves.png")

# %% [markdown]
# ## Evaluate
#
# The interval of the few test images is wide.

# %%
metrics = evaluate.run(run)
score = metrics["top_1"]
print(f"{metrics['images']} images: {score['value']:.1%} ({score['low']:.1%} to {score['high']:.1%})")

# %% [markdown]
# In three-fold cross-validation each image is in one test fold, and is classified by the network that has not seen it.

# %%
folds = crossvalidate.folds([*settings, *small, "name=moths-folds", "split.folds=3"])
pooled = crossvalidate.run(folds, console=Console(quiet=True))
score = pooled["top_1"]
print(f"{pooled['images']} images: {score['value']:.1%} ({score['low']:.1%} to {score['high']:.1%})")

# %% [markdown]
# ## Look at the mistakes

# %%
Image(run / "evaluation" / "mistakes.png")

# %%
Image("runs/moths-folds/confusion.png")

# %% [markdown]
# ## Ask the server

# %%
archive.build("moths", "1.0")
started = server.start(["moths"], root=Path.cwd(), offset=ports.offset_of_environment())
print(f"{started.models[0].name} {started.models[0].version} is ready after {started.seconds:.0f} s")

# %%
with Client(root=Path.cwd()) as client:
    for path in sorted(raw.glob("test/*/1.jpg")):
        answer = client.predict(path.read_bytes(), "moths")
        print(f"{path.parent.name}: {answer.label} with probability {answer.probabilities[answer.label]:.2f}")

# %%
server.stop(root=Path.cwd())
