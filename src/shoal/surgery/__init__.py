"""Plan + model → new model; networks to folders and back; proof that a folder is right."""

from shoal.architectures.shards import read_checkpoint
from shoal.surgery.applying import apply, check_plan, expand, fold, merge_layers
from shoal.surgery.blueprint import Blueprint, draw_blueprint
from shoal.surgery.certificate import certify
from shoal.surgery.checkpoint import save
from shoal.surgery.checks import Check, Depth, Verification
from shoal.surgery.cutting import cut_folder, is_checkpoint, why_in_memory
from shoal.surgery.entries import PUBLISHED, EntryRules, find_entries
from shoal.surgery.equality import check_equal
from shoal.surgery.expanding import expand_, merge_
from shoal.surgery.exporting import ExportCheck, check_export, export_onnx
from shoal.surgery.folders import check_target
from shoal.surgery.loading import load
from shoal.surgery.originals import check_format, format_of
from shoal.surgery.publishing import save_verified
from shoal.surgery.record import read_record
from shoal.surgery.shortcut_folding import fold_shortcuts
from shoal.surgery.shortcuts import with_shortcuts
from shoal.surgery.structure import build_skeleton
from shoal.surgery.verification import record_verification, verify

__all__ = [
    "PUBLISHED",
    "Blueprint",
    "Check",
    "Depth",
    "EntryRules",
    "ExportCheck",
    "Verification",
    "apply",
    "build_skeleton",
    "certify",
    "check_equal",
    "check_export",
    "check_format",
    "check_plan",
    "check_target",
    "cut_folder",
    "draw_blueprint",
    "expand",
    "expand_",
    "export_onnx",
    "find_entries",
    "fold",
    "fold_shortcuts",
    "format_of",
    "is_checkpoint",
    "load",
    "merge_",
    "merge_layers",
    "read_checkpoint",
    "read_record",
    "record_verification",
    "save",
    "save_verified",
    "verify",
    "why_in_memory",
    "with_shortcuts",
]
