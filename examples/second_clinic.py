# %% [markdown]
# # Adapting to a second clinic
#
# A model was pre-trained at home. A second clinic is small, has other cameras and notes fewer
# things about its patients. Continue from home, or train on the clinic alone? And what does the
# model forget of home? Drawn data, so that everybody can run it; [docs/adapt.md](../docs/adapt.md)
# has the rules.

# %%
import shlex

from slimp.cli.main import main


def terminal(line: str) -> None:
    """Does what a terminal does with a line."""
    assert main(shlex.split(line)[1:]) == 0


clear = "--image-size 40 --ambiguity 0.15 --spread 0.06 --lighting 0.06 --label-noise 0"
terminal(f"slimp data import synthetic - cohorts/home --patients 200 --lesions 4 {clear}")
terminal(
    "slimp data import synthetic - cohorts/clinic --patients 160 --lesions 3 --seed 1 "
    f"--nuisance-columns 2 --clinic-cast 0.12 {clear}"
)

# %% [markdown]
# ## At home

# %%
few = "--validation-fraction 0 --workers 0"
tiny = f"--preset tiny --image-size 40 --patients 8 --feature-dropout 0.1 {few}"
terminal(f"slimp pretrain cohorts/home --out runs/home {tiny} --epochs 14 --held-out-fraction 0.4")

# %% [markdown]
# ## At the clinic
#
# A fifth of its patients train; the others test. Columns of the same name and unit are kept, those
# that the clinic lacks are dropped, new ones would get new weights. Where a column has another
# name, say so: `--rename gender=sex`. By default only the embedding layers and the heads learn, as
# in the paper. `--reference` measures on home's own test patients what was forgotten.

# %%
terminal(
    "slimp adapt runs/home cohorts/clinic --out runs/adapted --reference cohorts/home "
    f"--epochs 6 --held-out-fraction 0.8 {few}"
)

# %% [markdown]
# Read three things. `dropped` and `new`: are these the columns you expect? Then the row `image` of
# the last table: that is forgetting proper, since `full` also loses the columns that are no longer
# read. And its interval: if it holds 0, no forgetting is shown, which is not the same as none.
#
# The control is a model of the same size that knows the clinic alone, with more epochs:

# %%
terminal(
    f"slimp pretrain cohorts/clinic --out runs/alone {tiny} --epochs 10 --held-out-fraction 0.8"
)
for name in ("adapted", "alone"):
    probe = f"slimp probe runs/{name} cohorts/clinic --out probes/{name} --features image"
    terminal(f"{probe} --subgroups none --no-report")

# %% [markdown]
# Both probes test on the same patients of the clinic, so they can be compared in pairs, which is
# far sharper than comparing two intervals:

# %%
terminal("slimp compare probes/adapted probes/alone")

# %% [markdown]
# `A` is the adapted model. A difference counts where its interval leaves 0 out. The probes read
# images alone; beside them stands what the clinic's metadata give without any image. If that is
# higher, use `--features full`, which reads both.
