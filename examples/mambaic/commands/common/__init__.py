"""What several commands share: types of flags, checks of outputs, notes."""
