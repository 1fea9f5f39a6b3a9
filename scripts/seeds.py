"""Seeds as a command line or a suite gives them."""


def seeds_of(text: str | int) -> list[int]:
    """
    :param text: one seed, or the first and the last, as "100-104"
    :return: all of them
    :raises ValueError: if there is none
    """
    first, _, last = str(text).partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
        raise ValueError(f'seeds: {text!r}. Give one seed, or the first and the last, as "100-104"')
    return [*range(int(first), int(last or first) + 1)]
