"""The sizes of a world model for tests that look at its numbers."""

from moto_pl.nn import WorldModelConfig

TINY_MODEL = WorldModelConfig(
    deter=6,
    hidden=5,
    stoch=3,
    classes=4,
    ensemble=3,
    encoder_channels=(2, 3, 4, 5),
    decoder_channels=(4, 3, 2),
    mlp_layers=0,
    head_layers=1,
    head_units=6,
    free_nats=0.0,
)
