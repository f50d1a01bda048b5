"""Captions and prompts of the emoji data set."""

from recipes.emoji.captions import list_prompts, list_variants

APPLE = {"text": "red apple", "style": "3d", "tags": ["apple", "fruit", "food", "sweet"]}


def test_variants_are_label_style_and_pairs_of_tags_that_the_label_lacks() -> None:
    assert list_variants(APPLE) == [
        ["red apple"],
        ["red apple, 3d"],
        ["red apple, fruit, food", "red apple, food, sweet"],
    ]
    assert list_variants(APPLE | {"tags": ["apple", "fruit"]})[2] == ["red apple"]


def test_prompts_have_the_style_every_second_time_and_are_shuffled_the_same_way() -> None:
    rows = [{"text": f"{index}", "style": "noto", "tags": []} for index in range(40)]
    prompts = list_prompts(rows)
    assert sorted(prompts) == sorted(f"{i}" if i % 2 else f"{i}, noto" for i in range(40))
    assert prompts == list_prompts(rows) and prompts[:3] != ["0, noto", "1", "2, noto"]
