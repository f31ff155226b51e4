"""The PSF's kernel among the dense unknowns of a joint step: names, limits and prior."""

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.psf_kernel import FAMILIES, Kernel
from sphot_mpi.records import Vector

#: Dense unknowns: the kernel's coordinates, in their order.
KERNEL_NAMES = ("kernel", "kernel_shape")


def prior_terms(names: tuple[str, ...], kernel: Kernel) -> tuple[NDArray[np.float64], Vector]:
    """Normal matrix (m, m) and right-hand side (m,) of the prior of the kernel's shape; zero where there is none."""
    weight, pull = np.zeros((len(names), len(names))), np.zeros(len(names))
    prior = FAMILIES[kernel.family].prior
    if prior is not None and KERNEL_NAMES[1] in names:
        k = names.index(KERNEL_NAMES[1])
        weight[k, k] = prior[1] ** -2.0
        pull[k] = (prior[0] - kernel.coordinates[1]) * weight[k, k]
    return weight, pull


def shape_limit(step: Vector, names: tuple[str, ...], kernel: Kernel) -> tuple[int, float] | None:
    """Index of the kernel's shape and the step it may take, where that is not the one it would; else None.

    The other unknowns must then be solved for that step: a size that belongs to a shape out of reach would be no
    minimum of what is within reach. Far from the right size the shape waits: there it would swing from end to end.
    """
    if KERNEL_NAMES[1] not in names:
        return None
    k, spec = names.index(KERNEL_NAMES[1]), FAMILIES[kernel.family]
    if abs(step[names.index(KERNEL_NAMES[0])]) > spec.steps[0]:
        return k, 0.0
    here, (low, high), longest = float(kernel.coordinates[1]), spec.ranges[1], spec.steps[1]
    allowed = float(np.clip(step[k], max(low - here, -longest), min(high - here, longest)))
    return None if allowed == step[k] else (k, allowed)


def stepped(kernel: Kernel, step: dict[str, float]) -> Kernel:
    """Kernel after a step, which is limited, and within its bounds."""
    if KERNEL_NAMES[0] not in step:
        return kernel
    limits = np.array(FAMILIES[kernel.family].steps)
    moved = np.array([step[name] for name in KERNEL_NAMES[: limits.size]])
    return Kernel.from_coordinates(kernel.family, kernel.coordinates + np.clip(moved, -limits, limits))
