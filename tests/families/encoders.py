"""Networks of transformers that are no causal language models, and what their forward takes."""

from __future__ import annotations

from typing import Any

import torch

from families.sizes import VOCABULARY

__all__ = ["ENCODERS", "INPUTS", "PROMPT"]

PROMPT = torch.tensor([[5, 9, 7, 11, 13, 21, 8, 6, 30, 31, 12, 14, 15, 16, 17, 18]])

_STAGED = {"depths": [2, 4, 2], "hidden_sizes": [8, 16, 32], "num_stages": 3}
_PYRAMID = {
    "depths": [2, 4, 2],
    "hidden_sizes": [8, 16, 32],
    "num_encoder_blocks": 3,
    "num_attention_heads": [1, 2, 4],
}
_WINDOWED = {"depths": [2, 4, 2], "num_heads": [2, 4, 8], "embed_dim": 8, "patch_size": 2, "window_size": 2}
_TEXT, _IMAGE = ("input_ids",), ("pixel_values",)

# By class: fields of its config, and what its forward takes.
ENCODERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "BertForMaskedLM": ({}, _TEXT),
    "RobertaModel": ({}, _TEXT),
    "DistilBertForMaskedLM": ({}, _TEXT),
    "DebertaV2Model": ({}, _TEXT),
    "MPNetModel": ({"relative_attention_num_buckets": 32}, _TEXT),
    "ModernBertForMaskedLM": ({}, _TEXT),
    "EsmModel": ({"vocab_size": VOCABULARY, "pad_token_id": 0}, _TEXT),
    "T5EncoderModel": ({}, _TEXT),
    "T5ForConditionalGeneration": ({}, ("input_ids", "decoder_input_ids")),
    "BartForConditionalGeneration": ({}, ("input_ids", "decoder_input_ids")),
    "ViTForImageClassification": ({}, _IMAGE),
    "Dinov2ForImageClassification": ({}, _IMAGE),
    "Dinov2Backbone": ({"out_indices": [4, 8]}, _IMAGE),
    "BeitForImageClassification": ({}, _IMAGE),
    "SwinForImageClassification": (_WINDOWED, _IMAGE),
    "ConvNextForImageClassification": (_STAGED, _IMAGE),
    "SegformerModel": (_PYRAMID, _IMAGE),
    "CLIPModel": ({}, (*_TEXT, *_IMAGE)),
    "CLIPVisionModel": ({}, _IMAGE),
    "SiglipModel": ({}, (*_TEXT, *_IMAGE)),
    "WhisperForConditionalGeneration": ({}, ("input_features", "decoder_input_ids")),
    "WhisperForAudioClassification": ({}, ("input_features",)),
}
INPUTS = {
    "input_ids": PROMPT,
    "decoder_input_ids": PROMPT.flip(1),
    "pixel_values": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3)),
    "input_features": torch.randn(1, 16, 2 * VOCABULARY, generator=torch.Generator().manual_seed(3)),
}
