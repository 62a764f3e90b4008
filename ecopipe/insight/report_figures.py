"""Numbers and names of a profile as people read them."""

from __future__ import annotations

from rich.filesize import decimal

from ecopipe.insight.profile_model import REST


def spoken_us(value: float) -> str:
    """Microseconds for people.

    >>> spoken_us(3.21), spoken_us(4321.0), spoken_us(2.5e6)
    ('3.2 us', '4.3 ms', '2.5 s')
    """
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value >= 100 * size else f"{value / size:.2g} {unit}"
    return f"{value:.3g} us" if value >= 100 else f"{value:.2g} us"


def decimal_bytes(value: float) -> str:
    """Bytes for people, in powers of 1,000.

    >>> decimal_bytes(999), decimal_bytes(1234.0), decimal_bytes(26_300_000)
    ('999 bytes', '1.2 kB', '26.3 MB')
    """
    return decimal(int(value))


def shown_part(name: str) -> str:
    """The name of a part in pictures and tables: that of the rest fits where there are no workers, too.

    >>> shown_part("rest of the worker"), shown_part("Collate")
    ('rest of making', 'Collate')
    """
    return "rest of making" if name == REST else name
