import pickle

from raydae.core.errors import UserError, first_line, one_line


def test_a_message_is_one_line_whatever_names_it_holds() -> None:
    error = UserError("a\nb\x1b[31m\u2028.png: cannot be read; é stays")
    assert first_line(error) == "a\\nb\\x1b[31m\\u2028.png: cannot be read; é stays"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert one_line(one_line("a\nb")) == "a\\nb"
