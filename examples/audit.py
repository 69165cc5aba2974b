# %% [markdown]
# # Reading an audit
#
# `slimp data check` looks for what would spoil a result before a GPU is used. Here is a cohort
# with faults that we put in ourselves, so we know what it should find: an age of 999, and a column
# that follows the diagnosis.

# %%
from dataclasses import replace

import slimp
from slimp.cli.main import main

draw = ["data", "import", "synthetic", "-", "cohorts/drawn", "--patients", "120", "--lesions", "3"]
assert main([*draw, "--image-size", "40"]) == 0
cohort = slimp.Cohort.load("cohorts/drawn")
lesions, patients = cohort.lesions.copy(), cohort.patients.copy()
patients.loc[3, "age"] = 999
melanoma = cohort.images.groupby("lesion_id")["label"].first() == "melanoma"
lesions["bled"] = lesions["lesion_id"].map(melanoma)  # as if noted after the excision
spoilt = replace(cohort, tables=replace(cohort.tables, lesions=lesions, patients=patients))

# %%
report = slimp.check_cohort(spoilt)
print("usable:", report.usable)
for finding in report.findings:
    print(f"\n{finding.severity.upper()} {finding.code}: {finding.message}")
    print("  example:", finding.example)
    print("  remedy: ", finding.remedy)

# %% [markdown]
# **error** stops you: training would fail, or the results would be void. **warning** means that
# results are doubtful until you have looked. **note** is taken care of, or harmless as long as it
# stays so. Every code has its paragraph in [docs/check.md](../docs/check.md).
#
# ## Leaks
#
# A column that gives the label away makes every later figure worthless. The ranking says what each
# column tells about the label by itself, on patients that were held out; chance is 0.2 with five
# classes.

# %%
for column in report.ranking[:6]:
    low, high = column.found.accuracy_ci95
    print(f"{column.name:12} {column.found.balanced_accuracy:.2f} [{low:.2f}, {high:.2f}]")

# %% [markdown]
# A strong column is no leak as such: elevation may really go with a diagnosis. Ask when it was
# written down. What is noted after the biopsy goes under `[refused]` in the schema, as `biopsied`
# does here: it stays in the audit and never becomes an input.
#
# The page (`slimp data check cohorts/drawn --out audits/drawn`) has the same with pictures; `slimp
# probe` repeats the gravest cautions.
