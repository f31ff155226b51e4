"""Which launcher the MPI of this installation speaks with."""

from sphot_mpi.errors import UsageError

#: Names of `srun --mpi=` for each family of MPI, best first; the first word of the library that is found decides.
SRUN_TYPES = {
    "Open MPI": ("pmix", "pmix_v5", "pmix_v4", "pmix_v3"),
    "CRAY MPICH": ("cray_shasta", "pmi2"),
    "MPICH": ("pmi2", "cray_shasta"),
    "MVAPICH": ("pmi2", "pmix"),
    "Intel(R) MPI": ("pmi2", "pmix"),
}


def library_version() -> str:
    """Return what the MPI library says of itself; MPI is not started for that.

    Returns
    -------
    str
        In one line.

    Raises
    ------
    UsageError
        If there is no mpi4py, or it finds no MPI.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        msg = f"mpi4py cannot be loaded ({error}); install it with pip install 'sphot-mpi[mpi]'."
        raise UsageError(msg) from error
    return " ".join(str(MPI.Get_library_version()).split())


def srun_types(library: str) -> tuple[str, ...]:
    """Return what can be given to `srun --mpi=`, best first.

    Parameters
    ----------
    library : str
        As `library_version` returns it.

    Returns
    -------
    tuple of str
        Which of these a Slurm offers, ``srun --mpi=list`` tells.

    Raises
    ------
    UsageError
        If the library is none of those that are known.
    """
    for name, types in SRUN_TYPES.items():
        if name in library:
            return types
    msg = f"this MPI is not known: {library[:80]}; ask your site which srun --mpi=... it needs."
    raise UsageError(msg)
