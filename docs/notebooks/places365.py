# %% [markdown]
# # Places365: file lists, and the five best answers
#
# Scenes of 365 classes. Lists name the images, and a validation list is the test side. Scenes overlap: a beach is also
# a coast. The usual score therefore counts an answer as right if the true class is among the five most probable ones.
#
# This page draws its images, so that it needs no download. For the real ones the same steps are `make data`,
# `make train`, `make evaluate`, `make archive` and `make serve`, each with `DATASET=places365`.

# %%
from pathlib import Path

import numpy as np
from IPython.display import Image

from serving import archive, server
from serving.client import Client, ClientError
from serving.host import ports
from synthetic import places365
from training import configuration, evaluate, pictures
from training.data import prepare
from training.data.progress import plain_console
from training.data.store import PreparedDataset
from training.train import train

# %% [markdown]
# ## Load
#
# A line of a list is a path and the number of a class. The drawn set has 24 of the 365 classes.

# %%
raw = Path("data/raw/places365")
places365.generate(raw, images_per_class=25, classes=24)
print(*(raw / "places365_train_standard.txt").read_text().splitlines()[:3], sep="\n")

# %% [markdown]
# The images and the network of this page are small, so that it takes little time. Without these two settings the images
# have 224 pixels, and training starts from the pretrained weights of an EfficientNet-Lite0.

# %%
settings = ["dataset=places365", "dataset.image_size=64", "network=small_cnn"]
prepare.run(settings, plain_console())

# %% [markdown]
# ## Look at the data

# %%
data = PreparedDataset.open("data/processed/places365")
present = [label for label in range(len(data.classes)) if np.any(data.labels == label)]
rows = [int(np.flatnonzero(data.labels == label)[0]) for label in present]
pictures.examples(data.images[rows], [data.classes[label] for label in data.labels[rows]], Path("examples.png"))
Image("examples.png")

# %% [markdown]
# ## Train

# %%
small = ["trainer.epochs=8", "trainer.ema=0", "trainer.train_size=null", "trainer.mix.p=0"]
small += ["trainer.optimizer=adamw", "trainer.lr=0.005"]
run = train(configuration.compose([*settings, *small]))
Image(run / "curves.png")

# %% [markdown]
# ## Evaluate

# %%
metrics = evaluate.run(run)
for name in ("top_1", "top_5", "calibration_error"):
    score = metrics[name]
    print(f"{name:17} {score['value']:.1%} ({score['low']:.1%} to {score['high']:.1%})")

# %% [markdown]
# The reliability diagram compares the probability of the answers with the share of right ones.

# %%
Image(run / "evaluation" / "reliability.png")

# %% [markdown]
# ## Look at the mistakes

# %%
Image(run / "evaluation" / "mistakes.png")

# %% [markdown]
# ## Ask the server

# %%
archive.build("places", "1.0", run=run)
started = server.start(["places"], root=Path.cwd(), offset=ports.offset_of_environment())
print(f"{started.models[0].name} {started.models[0].version} is ready after {started.seconds:.0f} s")

# %%
image = sorted(raw.glob("val_256/*.jpg"))[0].read_bytes()
with Client(root=Path.cwd()) as client:
    for label, probability in client.predict(image, "places").probabilities.items():
        print(f"{label:20} {probability:.3f}")

# %% [markdown]
# A damaged image gets an answer too: an error with a reason. The worker continues with the other requests.

# %%
with Client(root=Path.cwd()) as client:
    try:
        client.predict(image[:1000], "places")
    except ClientError as error:
        print(f"{type(error).__name__}: {error}")

# %%
server.stop(root=Path.cwd())
