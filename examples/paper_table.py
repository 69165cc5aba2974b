# %% [markdown]
# # Reproducing a table of the paper
#
# An experiment is a table of the paper as one command. This is Table 3, nested against flat
# pre-training, made as small as it gets: it shows how to run and read one, and its figures mean
# nothing. [docs/results.md](../docs/results.md) has the runs to their end.

# %%
import contextlib
import io
import shlex

from slimp.cli.main import main


def terminal(line: str, lines: int = 99) -> None:
    """Does what a terminal does with a line, and shows the first lines of what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(shlex.split(line)[1:]) == 0
    print("\n".join(printed.getvalue().splitlines()[:lines]))


terminal("slimp data import synthetic - cohorts/small --patients 60 --lesions 2 --image-size 32")

# %% [markdown]
# ## What would be done
#
# Arms are trained, embedded and scored on the same patients. Each stage is a *cell*; `--set`
# changes a setting of every training, `--only` makes some of the cells.

# %%
table_3 = "slimp experiment nested-vs-flat --cohort cohorts/small --out experiments/table3"
less = "--set epochs=2 --set image_size=32 --only 'arm=nested|flat|metadata only,fold=0|1'"
terminal(f"{table_3} {less} --dry-run")

# %% [markdown]
# ## Doing it
#
# Interrupt it whenever you like: what is done is not done again. `--jobs 4` uses more processes,
# `--shard 1/8` more machines.

# %%
terminal(f"{table_3} {less}", lines=8)

# %% [markdown]
# ## Reading it
#
# Look at `minus its control` before the scores: the difference is paired over the same images, its
# p-value is corrected for the number of arms. *cannot be told* is the usual answer of a small run.
# *hole* means that cells are missing: here three of five folds, so no arm is complete. The paper's
# figure stands beside with its scale, since a small encoder from scratch is no replication.
#
# Any time, without training anything:

# %%
terminal("slimp experiment show experiments/table3")

# %% [markdown]
# For the real one: `slimp experiment nested-vs-flat --cohort pad-ufes-20 --out experiments/table3
# --scale paper`, on GPUs.
