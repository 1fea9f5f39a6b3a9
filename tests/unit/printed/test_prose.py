"""Figures in sentences of README.md and docs/ are those of result files, or are worked out here."""

import pytest
from printed import claims_hidden_states, claims_memory, claims_readme, claims_results, claims_speed
from printed.pages import is_printed, pattern_of, read

CLAIMS = {
    f"{page.PAGE}: {claim}": (page.PAGE, claim, values)
    for page in (claims_readme, claims_results, claims_hidden_states, claims_memory, claims_speed)
    for claim, values in page.CLAIMS.items()
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_sentences(claim):
    page, sentence, values = CLAIMS[claim]
    found = pattern_of(sentence).search(read(page))
    assert found, f"{page} no longer says this: tests/printed/ has to know what it says now, or nothing if the sentence went"
    expected = values()
    assert len(found.groups()) == len(expected)
    assert all(map(is_printed, found.groups(), expected)), (found.groups(), expected)
