"""The stages: plan, audio, text, image, spectral and foreign ones, each a frozen dataclass and one pure method."""
