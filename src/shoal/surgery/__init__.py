"""Plan + model → new model; networks to folders and back; proof that a folder is right."""

from shoal.surgery.checkpoint import save
from shoal.surgery.loading import load
from shoal.surgery.removal import apply
from shoal.surgery.verification import Check, Verification, record_verification, verify

__all__ = ["Check", "Verification", "apply", "load", "record_verification", "save", "verify"]
