"""The table of known naming schemes."""

from __future__ import annotations

# The table of known schemes: a name, and the pattern of a layer's variables. {K} is the layer's number, {_K} nothing
# for layer 0 and then _1, _2, …; `*` stays within a path component, `**` crosses `/`, `?` is one character.
# One line more makes another model known.
KNOWN = (
    ("skflow", "dnn/layer{K}/**"),
    ("estimator", "dnn/hiddenlayer_{K}/**"),  # tf.contrib.learn and tf.estimator
    ("bert", "bert/encoder/layer_{K}/**"),
    ("gpt-2", "model/h{K}/**"),
    ("t5-encoder", "encoder/block_{K}/**"),
    ("t5-decoder", "decoder/block_{K}/**"),
    ("slim-resnet", "resnet_v?_*/block{K}/**"),
    ("official-resnet", "resnet_model/conv2d{_K}/**"),
    ("hf-decoder", "model.layers.{K}.**"),  # of Hugging Face: Llama, Mistral, Qwen, Gemma, OPT's decoder, …
    ("hf-bert", "bert.encoder.layer.{K}.**"),
    ("hf-roberta", "roberta.encoder.layer.{K}.**"),
    ("hf-encoder", "encoder.layer.{K}.**"),
    ("hf-gpt-2", "transformer.h.{K}.**"),
    ("hf-gpt-2-base", "h.{K}.**"),
    ("hf-t5-encoder", "encoder.block.{K}.**"),
    ("hf-t5-decoder", "decoder.block.{K}.**"),
    ("hf-vit", "vit.encoder.layer.{K}.**"),
    ("layers", "layers.{K}.**"),  # torch.nn.ModuleList or Sequential of this name
)
