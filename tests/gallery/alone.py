"""Codecs whose decoder knows more than the file."""

from __future__ import annotations

from gallery.sound import SoundCodec, checksum


class KeepsSideInformation(SoundCodec):
    """z's stream stays in the encoder object, the file gets its checksum: few bits, until another process decodes."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def encode(self, y):
        y_string, z_string, y_hat = super().encode(y)
        self.kept[checksum(z_string)] = z_string
        return y_string, checksum(z_string), y_hat

    def decode(self, y_string, z_string, size):
        return super().decode(y_string, self.kept[z_string], size)
