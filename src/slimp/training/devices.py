"""Devices and processes of a run, and the number format that suits them."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from slimp.errors import UserError
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import OWN, timm_model
from slimp.models.precision import bf16_is_fast
from slimp.training.config import PretrainConfig, part_of

Accelerator = Literal["auto", "cpu", "cuda", "mps"]


def make_fabric(config: PretrainConfig) -> Fabric:
    """The devices of a configuration, one process each; `launch` starts the processes.

    Raises:
        UserError: there are not that many devices, or a launcher started another number of
            processes.
    """
    # Fabric would log what config.json says already.
    for name in ("lightning_fabric", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    devices, nodes = _world(config)
    try:
        return Fabric(
            accelerator=config.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if devices * nodes > 1 else "auto",
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UserError(
            f"accelerator '{config.accelerator}' with {devices} device(s) on {nodes} node(s): "
            f"{' '.join(str(error).split())}"
        ) from None


def _world(config: PretrainConfig) -> tuple[int, int]:
    """(devices per node, nodes), as set by the launcher of this process, if there is one."""
    asked = (config.devices, config.nodes)
    if TorchElasticEnvironment.detect():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        launched, launcher = (devices, int(os.environ["WORLD_SIZE"]) // devices), "torchrun"
    elif SLURMEnvironment.detect() and int(os.environ["SLURM_NTASKS"]) > 1:
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        launched, launcher = (int(os.environ["SLURM_NTASKS"]) // nodes, nodes), "srun"
    else:
        return asked
    if asked not in ((1, 1), launched):
        raise UserError(
            f"{launcher} started {launched[0]} process(es) on each of {launched[1]} node(s), but "
            f"--devices is {asked[0]} and --nodes is {asked[1]}. Leave out --devices and --nodes."
        )
    return launched


def device_of(accelerator: Accelerator) -> str:
    """The device that an `--accelerator` stands for; auto is the fastest one available."""
    if accelerator != "auto":
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def precision_of(
    precision: Literal["auto", "32", "bf16"],
    accelerator: Accelerator,
    network: nn.Module | None = None,
) -> Literal["32", "bf16"]:
    """The number format that a `--precision` stands for; auto is bf16 where a network is fast."""
    if precision != "auto":
        return precision
    return "bf16" if bf16_is_fast(device_of(accelerator), network) else "32"


def fast_precision(config: PretrainConfig) -> PretrainConfig:
    """The configuration with `precision="auto"` resolved for its encoder on its device."""
    network = None
    if config.precision == "auto" and not config.encoder.startswith(OWN):
        with torch.device("meta"):  # what layers it has, without their weights
            network = timm_model(part_of(config, ModelConfig), pretrained=False)
    return replace(config, precision=precision_of(config.precision, config.accelerator, network))
