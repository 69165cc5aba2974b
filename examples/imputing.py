# %% [markdown]
# # Imputing metadata, and knowing when not to
#
# A clinic sends photographs without metadata. Similar cases of your own cohort can give an idea of
# them, and the model then reads imputed in place of observed metadata. That is a guess from the
# image, so half of the work is to find out whether it is a good one.
# [docs/retrieval.md](../docs/retrieval.md) explains each figure.

# %%
import contextlib
import io
import json
import shlex
from pathlib import Path

import slimp
from slimp.cli.main import main


def terminal(line: str, lines: int = 99) -> None:
    """Does what a terminal does with a line, and shows the first lines of what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(shlex.split(line)[1:]) == 0
    print("\n".join(printed.getvalue().splitlines()[:lines]))


# %% [markdown]
# Three drawn cohorts: yours, a clinic with the same cameras and kind of patients, and one with
# others. Their metadata are known, which is what makes this a test: `--impute all` hides them, and
# compares afterwards.

# %%
clear = "--image-size 40 --ambiguity 0.15 --spread 0.06 --lighting 0.06 --label-noise 0"
terminal(f"slimp data import synthetic - cohorts/all --patients 280 --lesions 4 {clear}")
everyone = slimp.Cohort.load("cohorts/all")
patients = everyone.patients["patient_id"]
everyone.select_patients(patients[:200]).save("cohorts/mine")
everyone.select_patients(patients[200:]).save("cohorts/alike")
terminal(
    "slimp data import synthetic - cohorts/other --patients 120 --lesions 4 --seed 1 "
    f"--nuisance-columns 2 --clinic-cast 0.12 {clear}"
)
terminal(
    "slimp pretrain cohorts/mine --out runs/mine --preset tiny --image-size 40 --epochs 14 "
    "--patients 8 --feature-dropout 0.1 --held-out-fraction 0.4 --validation-fraction 0 --workers 0"
)

# %% [markdown]
# ## First question: does the target look like the reference?
#
# A classifier is trained to tell the image features of both apart, patients being kept apart. 0.5
# means that it cannot.

# %%
for target in ("alike", "other"):
    print(target)
    terminal(
        f"slimp retrieve runs/mine --reference cohorts/mine --target cohorts/{target} "
        f"--out imputed/{target} --impute all --k 10",
        lines=3,
    )

# %% [markdown]
# The test is strict about saying *different*: p below 0.01 and an interval above 0.6. Where it
# does, stop here: retrieval always finds something nearest, however far away it is.
#
# ## Second question: is it better than chance?
#
# Per column, on your own cohort, whose truth you have: `kappa` for categories (0 is as good as
# guessing by frequency, 1 always right), `skill` for numbers (0 is as good as the median). The
# terminal shows all of it; here are the columns that pass.

# %%
found = json.loads(Path("imputed/alike/metrics.json").read_text())
rows = found["agreement_on_reference"]
passed = {row["column"]: row.get("kappa", row.get("skill")) for row in rows}
passed = {column: score for column, score in passed.items() if score["ci95"][0] > 0}
print(f"better than chance: {len(passed)} of {len(rows)} columns")
for column, score in passed.items():
    print(f"{column:22} {score['mean']:.2f} [{score['ci95'][0]:.2f}, {score['ci95'][1]:.2f}]")

# %% [markdown]
# Take a column only where its interval lies above 0, and remember that of thirty columns one
# passes by chance now and then. Few do with an encoder as small as this one; that is an answer,
# too.
#
# ## Third question: does it help the diagnosis?
#
# Imputed metadata are a function of the image. They add something only if the reference says it
# better than the image features do.

# %%
probe = "slimp probe runs/mine cohorts/alike --subgroups none --no-report"
terminal(f"{probe} --out probes/images --features image", lines=5)
terminal(f"{probe} --out probes/imputed --features full --pseudo imputed/alike", lines=8)
terminal("slimp compare probes/imputed probes/images", lines=4)

# %% [markdown]
# The last line is the answer on test patients: if its interval holds 0, leave them out. The caution
# about what is imputed asks the same beforehand, by cross-validation on training patients alone;
# decide by that one. Imputed values are marked as such in every file, table and page, and never
# enter as raw columns.
