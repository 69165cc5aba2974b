# %% [markdown]
# # The nested loss with your own encoder and loader
#
# You have an image encoder, a data loader and a training loop, and want only the loss.
# `slimp.NestedHeads` holds what the loss itself learns (two projections and a temperature per
# level), `slimp.nested_loss` adds up the levels. Nothing else of `slimp` is needed: no cohort
# folder, no schema. [The method](../docs/method.md) says what is computed.

# %%
import math

import torch
from torch import nn

import slimp

torch.manual_seed(0)
encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 64), nn.GELU(), nn.Linear(64, 64))
of_lesion, of_patient = nn.Linear(5, 32), nn.Linear(3, 16)

# %% [markdown]
# A batch holds images, rows of lesion metadata, rows of patient metadata, and the lesion or
# patient that each belongs to. Patients may have any number of lesions, and lesions any number of
# images. Here the metadata are noise that also tints the image, so there is something to find.


# %%
def batch(patients: int = 8) -> tuple[torch.Tensor, ...]:
    """Images (i, 3, 16, 16), lesion rows (l, 5), patient rows (p, 3), and the parents of both."""
    lesion_of = torch.arange(patients).repeat_interleave(torch.randint(1, 4, (patients,)))
    image_of = torch.arange(len(lesion_of)).repeat_interleave(
        torch.randint(1, 3, (len(lesion_of),))
    )
    lesions, people = torch.randn(len(lesion_of), 5), torch.randn(patients, 3)
    tint = lesions[image_of, :3] + people[lesion_of[image_of]]
    return (
        torch.randn(len(image_of), 3, 16, 16) + tint[:, :, None, None],
        lesions,
        people,
        image_of,
        lesion_of,
    )


# %% [markdown]
# The whole training, in 20 lines. `loss.total` is the weighted sum; `loss.parts` has a value per
# level.

# %%
heads = slimp.NestedHeads(64, {"lesion": 32, "patient": 16})
model = nn.ModuleList([encoder, of_lesion, of_patient, heads])
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for step in range(201):
    images, lesions, people, image_of, lesion_of = batch()
    pairs = heads(
        encoder(images),
        {"lesion": of_lesion(lesions), "patient": of_patient(people)},
        {"lesion": image_of, "patient": lesion_of},
    )
    loss = slimp.nested_loss(pairs, {"lesion": 0.9, "patient": 0.1})
    optimizer.zero_grad()
    loss.total.backward()
    optimizer.step()
    heads.cap_temperatures()
    if step % 50 == 0:
        print(step, {name: f"{value.item():.2f}" for name, value in loss.parts.items()})

# %% [markdown]
# What is a good value? Guessing among n rows costs log n: that is where both losses begin.

# %%
for name, rows in {"lesion": len(lesions), "patient": len(people)}.items():
    print(f"{name}: log {rows} = {math.log(rows):.2f}")

# %% [markdown]
# A level below log n has been learned on these batches. It says nothing yet about a diagnosis: for
# that, freeze the encoder and fit a probe on patients that training did not see. `slimp.info_nce`
# is the loss of one level, if you need no hierarchy.
