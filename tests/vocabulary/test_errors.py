import inspect
import pickle

from ecopipe.vocabulary import errors


def test_the_tree_in_the_docstring_names_every_error() -> None:
    names = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert names == {word for word in (errors.__doc__ or "").split() if word in names}
    assert all(issubclass(getattr(errors, name), errors.EcopipeError) for name in names)


def test_a_sample_error_says_where_and_survives_the_way_from_a_worker() -> None:
    error = errors.SampleError("DecodeAudio", "84-1", "a.tar", "is damaged", "Traceback ...")
    other = pickle.loads(pickle.dumps(error))
    assert str(other) == "DecodeAudio: sample '84-1' in a.tar: is damaged"
    assert other.details == "Traceback ..."


def test_nearest_gives_the_name_that_was_meant_and_all_that_there_are() -> None:
    assert errors.nearest("Shufle", ["Shuffle", "Batch"]) == "Did you mean 'Shuffle'? Known: Batch, Shuffle."
    assert errors.nearest("xyz", ["Shuffle"]) == "Known: Shuffle."
    assert errors.nearest("xyz", []) == "Known: none."
    assert errors.nearest("q", map(str, range(100))).endswith(", and 76 more.")


def test_nearest_of_many_shows_the_nearest_first() -> None:
    names = [f"Image{number:02}" for number in range(40)] + ["TokenizeJson", "TokenizeText"]
    told = errors.nearest("TokeniseJsn", names)
    assert told.startswith("Did you mean 'TokenizeJson'? Known: TokenizeJson, TokenizeText, Image")
    assert told.endswith(", and 18 more.")
    assert told.count(",") == 24
    assert errors.nearest("", names).startswith("Known: Image00, Image01, Image02,")
