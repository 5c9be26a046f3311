"""Every model class of transformers whose code uses weight norm, at a tiny configuration with random weights."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tests.zoo.check import Case, Inputs

Options = dict[str, Any]


def cases() -> Iterator[Case]:
    """Yield a case for every model class."""
    for family, make in FAMILIES.items():
        yield Case("transformers", family, make.keywords.get("name", family), partial(normalized, make))


def normalized(make: Callable[[], tuple[nn.Module, Inputs]]) -> tuple[nn.Module, Inputs]:
    """Make a model that carries weight norm; the models that leave it to a method to apply it are told to."""
    model, inputs = make()
    done = []
    for path, module in model.named_modules():
        # VITS normalizes its WaveNets itself; where a module has the method, it tells those below it
        is_part = type(module).__name__ == "VitsWaveNet" or any(path.startswith(above) for above in done)
        if hasattr(module, "apply_weight_norm") and not is_part:
            module.apply_weight_norm()
            done.append(f"{path}." if path else "")
    return model, inputs


def _audio() -> torch.Tensor:
    return torch.randn(1, 1, 640)


def _encoder(name: str, **options: Any) -> tuple[nn.Module, Inputs]:
    """An encoder of waves in the manner of wav2vec 2.0."""
    import transformers

    kind = getattr(transformers, name)
    return kind(kind.config_class(**ENCODER, **options)), ((torch.randn(1, 800),), {})


ENCODER: Options = {
    "vocab_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def _vits(name: str) -> tuple[nn.Module, Inputs]:
    from transformers import VitsConfig, VitsModel

    config = VitsConfig(
        hidden_size=16,
        num_hidden_layers=2,
        ffn_dim=32,
        flow_size=8,
        spectrogram_bins=9,
        upsample_initial_channel=16,
        upsample_rates=(4, 2),
        upsample_kernel_sizes=(8, 4),
        resblock_kernel_sizes=(3, 5),
        resblock_dilation_sizes=((1, 3), (1, 3)),
        duration_predictor_filter_channels=8,
        duration_predictor_num_flows=2,
        prior_encoder_num_flows=2,
        prior_encoder_num_wavenet_layers=2,
        posterior_encoder_num_wavenet_layers=2,
    )
    return VitsModel(config), ((torch.randint(1, 38, (1, 7)),), {})


def _univnet(name: str) -> tuple[nn.Module, Inputs]:
    from transformers import UnivNetConfig, UnivNetModel

    config = UnivNetConfig(
        model_in_channels=8,
        model_hidden_channels=8,
        num_mel_bins=10,
        resblock_kernel_sizes=(3, 3),
        resblock_stride_sizes=(4, 2),
        resblock_dilation_sizes=((1, 3), (1, 3)),
        kernel_predictor_hidden_channels=8,
    )
    return UnivNetModel(config), ((torch.randn(1, 6, 10),), {"noise_sequence": torch.randn(1, 6, 8)})


VOCODER: Options = {
    "upsample_initial_channel": 16,
    "upsample_rates": (4, 2),
    "upsample_kernel_sizes": (8, 4),
    "resblock_kernel_sizes": (3, 5),
    "resblock_dilation_sizes": ((1, 3), (1, 3)),
}


def _hifigan(name: str) -> tuple[nn.Module, Inputs]:
    import transformers

    config = getattr(transformers, f"{name}Config")(model_in_dim=10, **VOCODER)
    return getattr(transformers, name)(config), ((torch.randn(9, 10),), {})


def _fastspeech(name: str) -> tuple[nn.Module, Inputs]:
    from transformers import (
        FastSpeech2ConformerConfig,
        FastSpeech2ConformerHifiGanConfig,
        FastSpeech2ConformerWithHifiGan,
        FastSpeech2ConformerWithHifiGanConfig,
    )

    layers = {"linear_units": 16, "layers": 1, "num_attention_heads": 2}
    acoustic = FastSpeech2ConformerConfig(
        hidden_size=16,
        vocab_size=20,
        num_mel_bins=10,
        speech_decoder_postnet_units=8,
        duration_predictor_channels=8,
        energy_predictor_channels=8,
        pitch_predictor_channels=8,
        **{f"{half}_{key}": value for half in ("encoder", "decoder") for key, value in layers.items()},
    )
    vocoder = FastSpeech2ConformerHifiGanConfig(model_in_dim=10, **VOCODER)
    config = FastSpeech2ConformerWithHifiGanConfig(model_config=acoustic.to_dict(), vocoder_config=vocoder.to_dict())
    return FastSpeech2ConformerWithHifiGan(config), ((torch.randint(1, 20, (1, 6)),), {})


SEAMLESS: Options = {
    "vocab_size": 20,
    "t2u_vocab_size": 20,
    "hidden_size": 16,
    "feature_projection_input_dim": 8,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "unit_hifi_gan_vocab_size": 20,
    "unit_embed_dim": 16,
    "lang_embed_dim": 4,
    "spkr_embed_dim": 4,
    "vocoder_num_langs": 3,
    "vocoder_num_spkrs": 3,
    **VOCODER,
    **{
        f"{part}_{key}": value
        for part in ("encoder", "decoder", "t2u_encoder", "t2u_decoder")
        for key, value in {"layers": 1, "ffn_dim": 16, "attention_heads": 2}.items()
    },
    "speech_encoder_layers": 1,
    "speech_encoder_attention_heads": 2,
    "speech_encoder_intermediate_size": 16,
}


def _seamless(name: str, module: str) -> tuple[nn.Module, Inputs]:
    """The vocoder, which transformers does not export by itself."""
    kind = _from_module(name, module)
    speaker = torch.ones(1, 1, dtype=torch.long)
    return kind(kind.config_class(**SEAMLESS)), ((torch.randint(5, 20, (1, 8)), speaker, speaker), {})


def _from_module(name: str, module: str) -> Any:
    """Import a class from where it is defined.

    The tokenizer of Higgs Audio imports torchaudio, to resample; at equal rates it never does, so a stand-in will do.
    """
    missing = importlib.util.find_spec("torchaudio") is None
    if missing:
        sys.modules["torchaudio"] = ModuleType("torchaudio")
    try:
        return getattr(importlib.import_module(f"transformers.models.{module}.modeling_{module}"), name)
    finally:
        if missing:
            del sys.modules["torchaudio"]


CODEC: Options = {
    "hidden_size": 16,
    "num_filters": 4,
    "upsampling_ratios": [4, 2],
    "codebook_size": 16,
}


def _encodec(name: str, **options: Any) -> tuple[nn.Module, Inputs]:
    from transformers import EncodecConfig, EncodecModel

    return EncodecModel(EncodecConfig(**CODEC, **options)), ((_audio(),), {})


DAC: Options = {
    "encoder_hidden_size": 4,
    "decoder_hidden_size": 32,
    "downsampling_ratios": [2, 4],
    "n_codebooks": 2,
    "codebook_size": 16,
    "codebook_dim": 4,
}


def _dac(name: str) -> tuple[nn.Module, Inputs]:
    from transformers import DacConfig, DacModel

    return DacModel(DacConfig(**DAC)), ((_audio(),), {})


def _streaming(name: str) -> tuple[nn.Module, Inputs]:
    import transformers

    options = {**CODEC, "upsample_groups": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    options |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    if name == "MimiModel":
        options |= {"codebook_dim": 8, "num_quantizers": 2, "vector_quantization_hidden_dimension": 8}
    else:
        options = {key: value for key, value in options.items() if key != "codebook_size"}
        options |= {"latent_stride": 2, "latent_dim": 8}
    config = getattr(transformers, name.replace("Model", "Config"))(**options)
    return getattr(transformers, name)(config), ((_audio(),), {})


def _xcodec(name: str, module: str, strides: tuple[int, int], **options: Any) -> tuple[nn.Module, Inputs]:
    """A codec of two encoders, which step alike."""
    from transformers import DacConfig, HubertConfig

    kind = _from_module(name, module)
    semantic = {**ENCODER, "conv_stride": strides, "conv_kernel": (2 * strides[0], strides[1] + 1)}
    config = kind.config_class(
        acoustic_model_config=DacConfig(**{**DAC, "downsampling_ratios": list(strides)}).to_dict(),
        semantic_model_config=HubertConfig(**semantic).to_dict(),
        target_bandwidths=[8.0],
        codebook_size=16,
        **options,
    )
    return kind(config), ((torch.randn(1, 1, 64 * strides[0] * strides[1]),), {})


#: family -> what makes its model
WAVTOKENIZER: Options = {
    "decoder_hidden_size": 16,
    "decoder_intermediate_size": 32,
    "decoder_num_layers": 1,
    "decoder_attention_num_groups": 4,
    "codebook_dim": 16,
}


def _wavtokenizer(name: str) -> tuple[nn.Module, Inputs]:
    from transformers import WavTokenizerConfig, WavTokenizerModel

    model = WavTokenizerModel(WavTokenizerConfig(**CODEC, **WAVTOKENIZER))
    model.encoder_model.quantizer.codebook.embed.normal_()  # zeros decode alike, whatever the encoder says
    return model, ((_audio(),), {})


FAMILIES: dict[str, partial[tuple[nn.Module, Inputs]]] = {
    "wav2vec2": partial(_encoder, name="Wav2Vec2Model"),
    "wav2vec2_ctc": partial(_encoder, name="Wav2Vec2ForCTC"),
    "wav2vec2_conformer": partial(_encoder, name="Wav2Vec2ConformerModel"),
    "hubert": partial(_encoder, name="HubertModel"),
    "wavlm": partial(_encoder, name="WavLMModel"),
    "unispeech": partial(_encoder, name="UniSpeechModel"),
    "unispeech_sat": partial(_encoder, name="UniSpeechSatModel"),
    "sew": partial(_encoder, name="SEWModel"),
    "sew_d": partial(_encoder, name="SEWDModel", max_position_embeddings=64, position_buckets=8),
    "vits": partial(_vits, name="VitsModel"),
    "univnet": partial(_univnet, name="UnivNetModel"),
    "speecht5": partial(_hifigan, name="SpeechT5HifiGan"),
    "fastspeech2_conformer": partial(_hifigan, name="FastSpeech2ConformerHifiGan"),
    "fastspeech2_conformer_with_vocoder": partial(_fastspeech, name="FastSpeech2ConformerWithHifiGan"),
    "seamless_m4t": partial(_seamless, name="SeamlessM4TCodeHifiGan", module="seamless_m4t"),
    "seamless_m4t_v2": partial(_seamless, name="SeamlessM4Tv2CodeHifiGan", module="seamless_m4t_v2"),
    "encodec": partial(_encodec, name="EncodecModel"),
    "wavtokenizer": partial(_wavtokenizer, name="WavTokenizerModel"),
    "dac": partial(_dac, name="DacModel"),
    "mimi": partial(_streaming, name="MimiModel"),
    "pocket_tts_audio_tokenizer": partial(_streaming, name="PocketTTSAudioTokenizerModel"),
    "xcodec": partial(_xcodec, name="XcodecModel", module="xcodec", strides=(5, 2)),
    "higgs_audio_v2_tokenizer": partial(
        _xcodec,
        name="HiggsAudioV2TokenizerModel",
        module="higgs_audio_v2_tokenizer",
        strides=(20, 16),
        sample_rate=16000,
    ),
}
