"""Recipes are checked as a whole before anything expensive begins."""

import json
from pathlib import Path

import pytest

from e0_bench.comparison.kept_recipe import ComparisonMismatchError, differences, keep_recipe
from e0_bench.comparison.measuring import benchmark_settings
from e0_bench.comparison.reading import read_recipe
from e0_bench.comparison.recipe import Recipe, RecipeError
from lerobot_policy_e0.libero_environment import LiberoCameraEnvConfig

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.toml"))
GOOD = """
[dataset]
tasks = ["PushCube-v1"]
episodes = [3]
seed = 100_000
[environment]
proprioception = "compact"
[training]
steps = 2
batch_size = 4
[training.policy]
device = "cpu"
horizon = 4
[policies.a]
objective = "e0"
n_action_steps = 3
[policies.b]
objective = "flow"
horizon = 6
[held_out]
episodes = 1
seed = 600_000
[benchmark]
episodes = 1
seed = 800_000
"""
TUNING = "[tuning]\nepisodes = 1\nseed = 700_000\n"


def written(directory: Path, text: str) -> Path:
    path = directory / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_can_be_carried_out(path: Path) -> None:
    assert read_recipe(path).policies


def test_there_are_shipped_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"maniskill_cpu", "maniskill_gpu", "vocabulary_cpu"}


def test_a_policy_has_the_shared_settings_and_its_own(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, GOOD))
    assert recipe.policy("a") == {
        "device": "cpu",
        "horizon": 4,
        "objective": "e0",
        "n_action_steps": 3,
    }
    assert recipe.policy("b") == {"device": "cpu", "horizon": 6, "objective": "flow"}
    assert recipe.loop() == {"steps": 2, "batch_size": 4}


def test_an_encoding_may_be_trained_under_its_policys_augmentation(tmp_path: Path) -> None:
    augmentation = "viewpoint_augmentation.probability = 0.5\nstandard_augmentation = {}\n"
    text = GOOD.replace("[policies.b]", f"{augmentation}[policies.b]")
    pretraining = '[pretraining]\nsteps = 2\npolicy.objective = "regression"\n'
    shared = {"device": "cpu", "horizon": 4, "objective": "regression"}
    own = {"viewpoint_augmentation": {"probability": 0.5}, "standard_augmentation": {}}
    plain = read_recipe(written(tmp_path, text + pretraining))
    augmented = read_recipe(written(tmp_path, text + pretraining + "augmented = true\n"))
    assert plain.pretrained_policy("a") == augmented.pretrained_policy("b") == shared
    assert augmented.pretrained_policy("a") == shared | own


def test_every_policy_may_be_trained_with_several_seeds(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, GOOD.replace("steps = 2", "steps = 2\nseeds = [7, 3]")))
    assert [training.label for training in recipe.trainings] == ["a-7", "b-7", "a-3", "b-3"]
    assert recipe.loop(7) == {"steps": 2, "batch_size": 4, "seed": 7}
    last = recipe.trainings[-1]
    assert recipe.pretrained_directory(last) == Path("pretrained/3")
    assert [training.label for training in read_recipe(written(tmp_path, GOOD)).trainings] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("[held_out]\nepisodes = 1\nseed = 600_000", "", "the recipe lacks held_out"),
        ("[held_out]", "[kept]\n[held_out]", "the recipe has unknown kept; known: dataset"),
        ("tasks =", "task =", r"\[dataset\] has unknown task"),
        ("steps = 2", "steps = 2\nlog_frequency = 1", r"\[training\]: .*log_frequency"),
        ('proprioception = "compact"', "images = 2", r"\[environment\] has unknown images"),
        ('proprioception = "compact"', 'type = "aloha"', r"\[environment\] has type 'aloha'"),
        ('proprioception = "compact"', 'type = "libero"\ndepth = true', "unknown depth; known: i"),
        (
            'seed = 100_000\n[environment]\nproprioception = "compact"',
            'seed = 100_000\ndepth = true\n[environment]\ntype = "libero"',
            r"\[dataset\] has unknown depth; known: tasks",
        ),
        (
            'proprioception = "compact"',
            'type = "libero"\n[told]\npolicies = ["a"]',
            r"\[told\] is for maniskill",
        ),
        ("[held_out]", '[told]\npolicies = ["z"]\n[held_out]', r"\[told\] names the policy 'z'"),
        ("[held_out]", '[told]\npolicies = ["a"]\n[held_out]', r"\[told\] .*embedding = true"),
        (
            'proprioception = "compact"',
            'camera_shift = "15,0,1,0"',
            r"\[environment\] has unknown camera_shift; known: ",
        ),
        (
            "[held_out]",
            '[pretraining]\nsteps = 2\naugmented = "yes"\n[held_out]',
            r"\[pretraining\] augmented must be true or false",
        ),
        ("[held_out]", "[decodings.a]\none = {}\n[held_out]", "need each other: give both"),
        ("[held_out]", TUNING + "[held_out]", "need each other: give both"),
        ("[held_out]", TUNING + "[decodings.z]\none = {}\n[held_out]", r"z\] is of no policy"),
        ("[held_out]", TUNING + "[decodings]\na = 3\n[held_out]", "must hold tables"),
        (
            "[held_out]",
            TUNING + "[decodings.b]\ncold.temperature = 0.0\n[held_out]",
            r"\[decodings.b\]: decoding 'cold' sets temperature, which objective=flow",
        ),
        (
            "[held_out]",
            TUNING.replace("700_000", "800_005") + "[decodings.a]\none = {}\n[held_out]",
            r"\[benchmark\] .* \[tuning\] from 800005",
        ),
        ("steps = 2", "steps = 0", r"\[training\] needs steps"),
        ("steps = 2", "steps = 2\nseeds = [1, 1]", r"\[training\] seeds must be .* got \[1, 1\]"),
        ("steps = 2", "steps = 2\nseeds = [1]", r"at least two different whole numbers, got \[1\]"),
        ("steps = 2", 'steps = 2\nseeds = "all"', r"\[training\] seeds must be .* got all"),
        ("steps = 2", "steps = 2\nseeds = [1, true]", r"\[training\] seeds must be"),
        ("steps = 2", "steps = 2\nseed = 1\nseeds = [1, 2]", r"both seed and seeds"),
        ("[policies.a]", '[policies."../../victim"]', r"label '\.\./\.\./victim' cannot name"),
        ("[policies.a]", '[policies."a/x"]', r"label 'a/x' cannot name a file"),
        ("[policies.a]", '[policies."b.log"]', r"label 'b\.log' must not end in"),
        ("steps = 2", 'steps = 2\noutput_dir = "../x"', r"\[training\] must not set output_dir"),
        ('objective = "e0"', 'objektive = "e0"', r"\[policies.a\] .* has unknown objektive"),
        ('objective = "e0"', 'objective = "e1"', r"\[policies.a\]: unknown objective 'e1'; known"),
        ("n_action_steps = 3", "n_action_steps = 9", r"\[policies.a\]: n_action_steps \(9\)"),
        ("n_action_steps = 3", "vocabulary_size = 1", r"\[policies.a\]: "),
        (
            "seed = 800_000",
            "seed = 600_005",
            r"\[held_out\] .* \[benchmark\] from 600005",
        ),
        ("seed = 600_000", "seed = 100_029", r"\[dataset\] .* leave at least 30 between"),
        ("episodes = 1\nseed = 800_000", "seed = 800_000", r"\[benchmark\] lacks episodes"),
        ("[dataset]", "[dataset", "cannot read the recipe"),
        ("[held_out]", "[pretraining]\n[held_out]", r"\[pretraining\] needs steps"),
        *(
            (
                "[held_out]",
                f"[corrections]\nepisodes = 2\nseed = 9_000_000\nsteps = 1\n{line}\n[held_out]",
                rf"\[corrections\] policies must be a list of labels, got {got}",
            )
            for line, got in (('policies = "a"', "'a'"), ("policies = []", r"\[\]"))
        ),
        *(
            ("episodes = [3]", f"episodes = {given}", r"\[dataset\] episodes must be a whole n")
            for given in ("0", "1.5", "[]", '"2"', "true")
        ),
        ("seed = 100_000", "seed = -1", r"\[dataset\] seed must be a whole number of at least 0"),
        (
            "[held_out]",
            "[corrections]\nepisodes = [2, 3]\nseed = 9_000_000\nsteps = 1\n[held_out]",
            r"\[corrections\]: episodes_per_task must be one number of at least 1, or one for each",
        ),
        (
            "episodes = 1\nseed = 600_000",
            "episodes = [9]\nseed = 799_990",
            r"the seeds of \[held_out\] from 799990 on and those of \[benchmark\]",
        ),
        (
            "[held_out]",
            "[corrections]\nepisodes = 2\nseed = 9_000_000\n[held_out]",
            r"\[corrections\] lacks steps",
        ),
        (
            "[held_out]",
            '[corrections]\nepisodes = 2\nseed = 9_000_000\nsteps = 1\npolicies = ["c"]\n'
            "[held_out]",
            r"\[corrections\] names the policy 'c'; there are a",
        ),
        (
            "[held_out]",
            "[corrections]\nepisodes = 2\nseed = 9_000_000\nsteps = 1\nrounds = 0\n[held_out]",
            r"\[corrections\] needs rounds, a whole number of at least 1",
        ),
        (
            "[held_out]",
            "[corrections]\nepisodes = 2\nseed = 99_999\nsteps = 1\nrounds = 9\n[held_out]",
            r"the seeds of \[corrections\] from 99999 on and those of \[dataset\]",
        ),
        (
            "[held_out]",
            '[pretraining]\nsteps = 2\npolicy.objective = "e1"\n[held_out]',
            r"\[pretraining.policy\]: unknown objective 'e1'",
        ),
        (
            "[held_out]",
            "[pretraining]\nsteps = 2\npolicy.use_instruction = false\n[held_out]",
            r"\[policies.a\] has use_instruction True and \[pretraining.policy\] False",
        ),
    ],
)
def test_bad_recipes_are_refused(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert before in GOOD
    with pytest.raises(RecipeError, match=message):
        read_recipe(written(tmp_path, GOOD.replace(before, after)))


def test_liberos_policies_meet_what_was_demonstrated(tmp_path: Path) -> None:
    text = GOOD.replace('proprioception = "compact"', 'type = "libero"\nimage_size = 64')
    recipe = read_recipe(written(tmp_path, text.replace("PushCube-v1", "libero_object")))
    settings = benchmark_settings(recipe, tmp_path, {"a": tmp_path / "a"}, 1)
    config = settings.environment.config("libero_object/3")
    assert isinstance(config, LiberoCameraEnvConfig)
    assert (config.task, config.image_size) == ("libero_object", 64)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*nowhere.toml"):
        read_recipe(tmp_path / "nowhere.toml")


GIVEN = GOOD.replace("episodes = [3]\nseed = 100_000\n", 'root = "mine"\n')


def test_demonstrations_may_be_given(tmp_path: Path) -> None:
    other = GIVEN.replace('proprioception = "compact"', 'type = "pusht"\nfps = 10')
    recipe = read_recipe(written(tmp_path, other.replace("PushCube-v1", "PushT-v0")))
    settings = benchmark_settings(recipe, tmp_path, {"a": tmp_path / "a"}, 1)
    assert (settings.env, settings.env_options) == ("pusht", ("fps=10",))
    overlapping = GIVEN.replace("seed = 600_000", "seed = 800_000")  # of its episodes: no clash
    assert read_recipe(written(tmp_path, overlapping)).held_out["seed"] == 800_000


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('root = "mine"', "root = 3", r"\[dataset\] root must be a directory, got 3"),
        ('["PushCube-v1"]', '"PushCube-v1"', r"\[dataset\] needs tasks, a list of names"),
        ("episodes = 1\nseed = 600", "episodes = [1]\nseed = 600", r"\[held_out\] needs episodes"),
        ('"mine"', '"mine"\nepisodes = 3', r"\[dataset\] has unknown episodes; known: tasks, root"),
        ('proprioception = "compact"', 'type = "nowhere"', "unknown environment type 'nowhere'"),
        (
            'proprioception = "compact"',
            "colour = 3",
            r"\[environment\]: no environment 'maniskill'",
        ),
        (
            "[held_out]",
            "[corrections]\nepisodes = 2\nseed = 9_000_000\nsteps = 1\n[held_out]",
            "for demonstrations collected in maniskill",
        ),
    ],
)
def test_a_wrong_recipe_of_given_demonstrations_is_refused(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in GIVEN
    with pytest.raises(RecipeError, match=message):
        read_recipe(written(tmp_path, GIVEN.replace(before, after)))


def test_only_what_spoils_results_is_a_difference(tmp_path: Path) -> None:
    before = json.loads(json.dumps(vars(read_recipe(written(tmp_path, GOOD)))))
    more = GOOD.replace("episodes = 1\nseed = 800", "episodes = 5\nseed = 800")
    more += '[policies.c]\nobjective = "masked"\n'
    assert differences(before, read_recipe(written(tmp_path, more))) == []
    seeds = GOOD.replace("steps = 2\n", "steps = 2\nseeds = [1, 2]\n")
    assert differences(before, read_recipe(written(tmp_path, seeds))) == []
    other = GOOD.replace("steps = 2\n", "steps = 3\n").replace("n_action_steps = 3", "horizon = 5")
    assert differences(before, read_recipe(written(tmp_path, other))) == ["training", "policies.a"]


def test_a_corrected_policy_may_be_added_and_none_be_corrected_later(tmp_path: Path) -> None:
    corrections = "[corrections]\nepisodes = 2\nseed = 9_000_000\nsteps = 1\npolicies = {}\n"
    c = '[policies.c]\nobjective = "masked"\n'

    def corrected(*names: str, more: str = "") -> Recipe:
        return read_recipe(written(tmp_path, GOOD + more + corrections.format(list(names))))

    kept = tmp_path / "out" / "recipe.json"
    keep_recipe(corrected("a"), kept.parent)
    keep_recipe(corrected("c", "a", more=c), kept.parent)
    assert json.loads(kept.read_text())["corrections"]["policies"] == ["a", "c"]
    with pytest.raises(
        ComparisonMismatchError, match=r"another policies\.a, policies\.b, policies\.c;"
    ):
        keep_recipe(corrected("b", more=c), kept.parent)
    before = kept.read_bytes()
    with pytest.raises(ComparisonMismatchError, match="another corrections"):
        keep_recipe(read_recipe(written(tmp_path, GOOD)), kept.parent)
    assert kept.read_bytes() == before
