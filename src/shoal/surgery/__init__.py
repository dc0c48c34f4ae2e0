"""Plan + model → new model; networks to folders and back; proof that a folder is right."""

from shoal.surgery.checkpoint import save
from shoal.surgery.folders import check_target
from shoal.surgery.loading import load
from shoal.surgery.originals import check_format, format_of
from shoal.surgery.publishing import save_verified
from shoal.surgery.removal import apply
from shoal.surgery.verification import Check, Verification, record_verification, verify

__all__ = [
    "Check",
    "Verification",
    "apply",
    "check_format",
    "check_target",
    "format_of",
    "load",
    "record_verification",
    "save",
    "save_verified",
    "verify",
]
