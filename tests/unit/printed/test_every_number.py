"""A number in README.md or docs/results.md is compared with a file, or is named here as a setting."""

import re

import pytest
from printed import claims_hidden_states, claims_memory, claims_readme, claims_results
from printed.pages import NUMBER, TABLES, pattern_of, read, table_of

SETTINGS = {
    "README.md": [
        r"arXiv:\d{4}\.\d{5}", r"(?:Lanillos|Millidge|et al\.) \d{4}", r"on x86-64, pip",
    ],
    "docs/results.md": [
        r"on seeds below 100[.;](?: scores here are of seeds 100 and up)?", r"- Brackets are 95 % bootstrap",
        r"mean of the last 20 training episodes", r"version 0\.1", r"Dir\(10⁴ A", r"Where the versions say .* 0\.1\.0,",
        r"Solved is at least 90 of 100 .* more than 90 % of 50 episodes", r"= 0\.5 for the ten choices",
    ],
}  # fmt: skip
"""Thresholds, versions and years, by page: they are chosen, not measured."""


def unchecked(page: str, claims: dict) -> list[str]:
    """Lines of a page with numbers in it of which no test knows, the others blotted out."""
    text = read(page)
    for claim in claims:
        found = pattern_of(claim).search(text)
        for group in range(1, len(found.groups()) + 1) if found else ():
            text = text[: found.start(group)] + "_" * len(found[group]) + text[found.end(group) :]
    # Tables of the suites are made by a command, which a test calls as well (tests/scripts/test_suite_tables.py)
    text = re.sub(r"<!-- (suite \w+(?:, short)?) -->.*?<!-- end of \1 -->", "", text, flags=re.S)
    for its_page, start in TABLES.values():
        if its_page == page:
            text = text.replace(table_of(page, start)[0], "")
    for code in (r"^```.*?^```", r"`[^`\n]*`", r"\]\([^)]*\)"):
        text = re.sub(code, "", text, flags=re.M | re.S)
    for setting in SETTINGS[page]:
        text = re.sub(setting, "", text)
    return [line for line in text.splitlines() if re.search(NUMBER, line)]


CLAIMS = {
    claims_readme.PAGE: claims_readme.CLAIMS,
    claims_results.PAGE: {**claims_results.CLAIMS, **claims_hidden_states.CLAIMS, **claims_memory.CLAIMS},
}


@pytest.mark.parametrize("page", CLAIMS)
def test_every_number_is_compared_or_a_setting(page):
    left = unchecked(page, CLAIMS[page])
    assert not left, "compare these in tests/printed/, or name the setting in SETTINGS:\n" + "\n".join(left)
