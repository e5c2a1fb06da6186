from pathlib import Path

from plinth.runtime.reference import settings_page
from plinth.settings import Settings

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "settings.md"


def test_the_settings_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run: python -m plinth.runtime.reference > the page"


def test_every_setting_is_on_the_page_with_its_meaning():
    page = settings_page()
    for name, field in Settings.model_fields.items():
        assert f"`PLINTH_{name.upper()}`" in page
        assert field.description
        assert field.description in page
