"""fkd: teacher labels once, students for ever."""
