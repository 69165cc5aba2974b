# %% [markdown]
# # Your own table: from a spreadsheet to predictions
#
# You have a spreadsheet with a row per photograph, and a folder of photographs. This goes all the
# way to a classifier with intervals and to predictions for new images. [The ugly
# table](own_data.md) shows what else the import copes with.

# %%
import io
import shlex
from pathlib import Path

from PIL import Image

import slimp
from slimp.cli.main import main


def terminal(line: str) -> None:
    """Does what a terminal does with a line."""
    assert main(shlex.split(line)[1:]) == 0


# %% [markdown]
# So that this runs anywhere, the spreadsheet is made from drawn patients. It is saved as
# spreadsheet programs do in many countries: semicolons, decimal commas, words for "unknown". An
# `.xlsx` is read in the same way (`pip install '.[excel]'`).

# %%
terminal(
    "slimp data import synthetic - cohorts/drawn --patients 200 --lesions 4 --image-size 48 "
    "--ambiguity 0.15 --spread 0.06 --lighting 0.06 --label-noise 0"
)
drawn = slimp.Cohort.load("cohorts/drawn")
sheet = drawn.images.merge(drawn.lesions.drop(columns="patient_id")).merge(drawn.patients)
named = {"image_id": "photo", "patient_id": "patient", "lesion_id": "lesion", "label": "diagnosis"}
named |= {
    "diameter_mm": "diameter (mm)",
    "site": "site",
    "itch": "itch",
    "age": "age",
    "sex": "sex",
}
sheet = sheet[list(named)].rename(columns=named)
sheet["photo"] += ".png"
sheet["itch"] = sheet["itch"].map({True: "yes", False: "no"}).fillna("not asked")
Path("clinic/images").mkdir(parents=True)
Path("new").mkdir()
old = sheet["patient"] <= "P000198"  # the last two patients come later
for i, name in enumerate(sheet["photo"]):
    folder = Path("clinic/images" if old[i] else "new")
    Image.open(io.BytesIO(drawn.read_image(i))).save(folder / name)
sheet[old].to_csv("clinic/findings.csv", sep=";", decimal=",", index=False, na_rep="unknown")
print(Path("clinic/findings.csv").read_text()[:420])

# %% [markdown]
# ## 1. What the columns are
#
# `sketch` proposes; you decide. A column that is not named in this file never becomes an input.

# %%
terminal("slimp data sketch clinic/findings.csv --out schema.toml")
print(Path("schema.toml").read_text())

# %% [markdown]
# Read each line. Is `patient` the person? Splits are made by it. Would the column be known before
# the diagnosis? If not, move it to `[refused]`. Here one line is wrong: `not asked` is no answer
# to whether it itches, but a missing one.

# %%
text = Path("schema.toml").read_text()
right = 'itch = { kind = "checkbox", missing = ["not asked"] }'
Path("schema.toml").write_text(text.replace('itch = { kind = "categorical" }', right))

# %% [markdown]
# ## 2. Import and check

# %%
terminal("slimp data import csv clinic cohorts/clinic --schema schema.toml --table findings.csv")
terminal("slimp data check cohorts/clinic")

# %% [markdown]
# ## 3. Pre-train and probe
#
# `tiny`, from random weights, is for trying things out. For your data use `--preset laptop`, which
# starts from ImageNet.

# %%
terminal(
    "slimp pretrain cohorts/clinic --out runs/clinic --preset tiny --image-size 48 --epochs 9 "
    "--patients 8 --feature-dropout 0.1 --held-out-fraction 0.4 --validation-fraction 0 --workers 0"
)
terminal("slimp probe runs/clinic cohorts/clinic --out probes/clinic --subgroups sex --no-report")

# %% [markdown]
# The sentence below the table compares with the best baseline on the same patients. Its interval
# says whether the difference is more than chance; a clinic of 200 patients leaves it wide.
# Subgroups with few patients have wide ones, too: they say "not enough people", not "fair".
#
# ## 4. New patients
#
# The probe reads metadata, so new images need a table with the same columns.

# %%
sheet[~old].rename(columns={"photo": "image"}).drop(columns="diagnosis").to_csv(
    "new.csv", index=False
)
terminal("slimp predict probes/clinic new --metadata new.csv --out predicted.csv")

# %% [markdown]
# Each image gets probabilities and a set of classes that holds the true one with the stated
# probability. Research software: not for diagnosis.
