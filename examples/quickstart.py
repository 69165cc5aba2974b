# %% [markdown]
# # Quickstart: drawn patients, from images to predictions
#
# Without a download: the patients, lesions and photographs are invented by a program
# ([how](../docs/synthetic.md)), so nothing here says anything about real skin: it shows what the
# calls are and what comes back.

# %%
import io
import shlex

import matplotlib.pyplot as plt
from PIL import Image

import slimp
from slimp.cli.main import main


def terminal(line: str) -> None:
    """Does what a terminal does with a line."""
    assert main(shlex.split(line)[1:]) == 0


# %% [markdown]
# ## A cohort
#
# A cohort is three tables (images, lesions, patients) and the images' pixels, in one folder.

# %%
terminal(
    "slimp data import synthetic - cohorts/drawn --patients 223 --lesions 4 --image-size 48 "
    "--ambiguity 0.15 --spread 0.06 --lighting 0.06 --label-noise 0"
)
everyone = slimp.Cohort.load("cohorts/drawn")
names = everyone.patients["patient_id"]
later = everyone.select_patients(names[220:])  # three patients who come when all is trained
cohort = everyone.select_patients(names[:220])
cohort.save("cohorts/mine")
print(cohort)
print(cohort.lesions[["lesion_id", "patient_id", "diameter_mm", "site", "itch"]].head(4))
print(cohort.patients[["patient_id", "age", "sex", "skin_type", "smokes"]].head(4))

# %% [markdown]
# Empty cells (`NaN`, `None`) are missing. They stay missing until the encoder, which masks them.

# %%
figure, axes = plt.subplots(1, 6, figsize=(8, 1.7), layout="constrained")
for i, panel in enumerate(axes):
    panel.imshow(Image.open(io.BytesIO(cohort.read_image(7 * i))))
    panel.set_title(cohort.images["label"].iloc[7 * i], fontsize=9)
    panel.axis("off")

# %% [markdown]
# ## Pre-training
#
# No label is used. Each lesion's image learns to match the lesion's metadata, and each patient's
# lesions together the patient's. 40 % of the patients are set aside: no stage learns from them.
# The preset `tiny` is for trying things out; `laptop` starts from ImageNet.

# %%
settings = slimp.PretrainConfig.from_preset(
    "tiny",
    image_size=48,
    epochs=14,
    patients=16,
    feature_dropout=0.1,
    held_out_fraction=0.4,
    workers=0,
)
model = slimp.pretrain(cohort, settings, "runs/mine")

# %% [markdown]
# ## A probe
#
# A probe is a linear classifier of the frozen features. `slimp probe` tests it on the patients
# that were set aside, and puts beside it what needs no pre-training: the majority class, and a
# classifier of the metadata alone.

# %%
terminal("slimp probe runs/mine cohorts/mine --out probes/mine --subgroups none --no-report")

# %% [markdown]
# Read the sentence below the table first. It is the paired difference from the best baseline, over
# the same patients; if its interval holds 0, this run does not show that pre-training helped.
# `image` is what the photograph alone tells, `full` adds the metadata. Balanced accuracy of five
# classes is 0.2 by chance. The brackets are 95 % intervals over patients.
#
# The same in Python, on random splits in place of the patients set aside:

# %%
table = slimp.embed(model, cohort)
print(table)
result = slimp.linear_probe(table, features="full", split="patient", seeds=2)
print("balanced accuracy", result.balanced_accuracy)

# %% [markdown]
# That second figure is of patients whose images pre-training has seen (not their labels), which is
# why `slimp probe` prefers those set aside.
#
# ## New images
#
# Each image gets a set of classes that holds the true one with a stated probability (90 %), or is
# refused. This probe reads metadata, so the new images come with theirs.

# %%
for i, name in enumerate(later.images["image_id"]):
    Image.open(io.BytesIO(later.read_image(i))).save(f"{name}.png")
metadata = later.images.merge(later.lesions.drop(columns="patient_id")).merge(later.patients)
metadata["image"] = metadata["image_id"] + ".png"
predictor = slimp.Predictor.load("probes/mine")
for found in predictor.predict(metadata["image"], metadata.drop(columns=["image_id", "label"])):
    print(found.image, found.status, found.decision, found.conformal_set)
print("drawn as:", ", ".join(later.images["label"]))

# %% [markdown]
# A set of nearly all classes is an honest answer: the probe cannot tell. Next: [your own
# table](own_table.py).
