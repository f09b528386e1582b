"""Where exported models run: this machine, the emulator, a phone, another computer."""
