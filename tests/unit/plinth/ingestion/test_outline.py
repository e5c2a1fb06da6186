from plinth.ingestion.outline import table


def test_an_empty_head_of_a_table_stays_the_head():
    assert table([["", ""], ["a", "b"]]) == "|  |  |\n| --- | --- |\n| a | b |"


def test_a_table_without_content_is_nothing():
    assert table([["", ""], ["", ""]]) == ""
