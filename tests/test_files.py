"""Files are read as a stream; what is wrong with them is said in one line with its place."""

import bz2
import contextlib
import errno
import gzip
import io
import itertools
import json
import lzma
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirm.errors import InputError
from minirm.files.guarded import Guarded
from minirm.files.reading import LARGEST_DOCUMENT, find_files, read_file, read_pipe
from minirm.files.tables import LARGEST_RECORD


def fields_of(path):
    return [row.fields for row in read_file(path)]


COMPRESS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pytest.importorskip("zstandard").compress(content),
}


def written(folder, name, content):
    path = folder / name
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(COMPRESS.get(name.rpartition(".")[2], bytes)(content))
    return path


def pyarrow_table(records):
    return pytest.importorskip("pyarrow").Table.from_pylist(list(records))


RECORDS = [{"a": "one"}, {"a": "zwei é"}, {"a": "{[\"'"}]
LINES = [json.dumps(record, ensure_ascii=False) for record in RECORDS]
LAYOUTS = {
    "lines": "\n".join(LINES),
    "lines with CRLF": "\r\n".join(LINES) + "\r\n",
    "lines with blank ones": "\n\n" + "\n  \n".join(LINES) + "\n\n",
    "lines after a byte order mark": "\ufeff" + "\n".join(LINES),
    "array on one line": json.dumps(RECORDS),
    "array over lines": "\ufeff\n" + json.dumps(RECORDS, indent=2) + "\n",
    "instances last": json.dumps({"type": "x", "version": 12, "instances": RECORDS}),
    "instances first": json.dumps({"instances": RECORDS, "type": {"a": [1]}, "version": 12}, indent=1),
    "objects over lines": "\n".join(json.dumps(record, indent=2) for record in RECORDS),
}


@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".JSON"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_json_is_read_in_every_layout(tmp_path, layout, suffix):
    assert fields_of(written(tmp_path, "x" + suffix, LAYOUTS[layout])) == RECORDS


def test_a_record_knows_its_file_and_line(tmp_path):
    lines = written(tmp_path, "x.jsonl", '\n{"a": 1}\n\n{"a": 2}')
    array = written(tmp_path, "x.json", '[\n{"a": 1},\n{"a":\n2}, {"a": 3}]')
    table = written(tmp_path, "x.csv", '\na,b\n\n1,"x\ny"\n2,z\n')
    assert [row.place for row in read_file(lines)] == [f"{lines}:2", f"{lines}:4"]
    assert [row.place for row in read_file(array)] == [
        f"{array} (record 1)",
        f"{array} (record 2)",
        f"{array} (record 3)",
    ]
    assert [row.place for row in read_file(table)] == [f"{table}:4", f"{table}:6"]


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_the_delimiter_of_a_table_is_recognised(tmp_path, delimiter):
    path = written(tmp_path, "x.csv", f'Prompt{delimiter}"b, or c"\r\n"x{delimiter}""y"""{delimiter}1\r\n')
    assert fields_of(path) == [{"prompt": f'x{delimiter}"y"', "b, or c": "1"}]


def test_spaces_around_a_bar_are_layout_and_others_are_text(tmp_path):
    assert fields_of(written(tmp_path, "x.csv", "a | b\n x y | z \n")) == [{"a": "x y", "b": "z"}]
    assert fields_of(written(tmp_path, "y.csv", "a,b\n x y , z \n")) == [{"a": " x y ", "b": " z "}]


def test_a_folder_stands_for_its_data_files_in_sorted_order(tmp_path):
    names = ["b.jsonl", "a/z.csv.gz", "a/.hidden.json", ".git/x.json", "README.md", "c.JSON"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_files([tmp_path]) == [tmp_path / "a/z.csv.gz", tmp_path / "b.jsonl", tmp_path / "c.JSON"]


def test_a_folder_is_read_through_links_to_folders(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    written(tmp_path / "elsewhere", "x.jsonl", "{}")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "b").symlink_to("a")
    assert find_files([tmp_path / "data"]) == [tmp_path / "data/a/x.jsonl", tmp_path / "data/b/x.jsonl"]


def test_what_in_a_folder_cannot_be_read_is_refused_and_not_skipped(tmp_path, monkeypatch):
    written(tmp_path, "x.jsonl", "{}")
    (tmp_path / "circle").symlink_to(".")
    with pytest.raises(InputError, match=r"circle: links back to a folder that it lies in: must not run in a circle"):
        find_files([tmp_path])
    (tmp_path / "circle").unlink()
    (tmp_path / "y.jsonl").symlink_to("gone.jsonl")
    with pytest.raises(InputError, match=r"y\.jsonl: must be a file; it is a pipe or a device, or links to nothing"):
        find_files([tmp_path])
    (tmp_path / "y.jsonl").unlink()
    (tmp_path / "closed").mkdir()
    list_folder = Path.iterdir

    def refuse(folder):
        if folder.name == "closed":  # as without permission; the superuser, who may run this test, has every one
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PermissionError, match="closed"):
        find_files([tmp_path])


def test_a_line_of_a_megabyte_is_read(tmp_path):
    record = {"a": "ab\n" * 350_000}
    for name, content in (("x.jsonl", json.dumps(record)), ("x.json", json.dumps([record, record]))):
        assert fields_of(written(tmp_path, name, content))[-1] == record
    table = written(tmp_path, "x.csv", "a,b\n1," + "x" * 1_000_000)
    assert len(fields_of(table)[0]["b"]) == 1_000_000


BAD_FILES = {
    "empty.jsonl": ("", ": empty: a data file holds at least one record"),
    "empty.jsonl.gz": ("", ": empty: a data file holds at least one record"),
    "empty.csv": ("", ": empty: a data file holds at least one record"),
    "header.csv": ("prompt,chosen,rejected\n", ": empty: a data file holds at least one record"),
    "quoted_nothing.csv": ('""\n', ": empty: a data file holds at least one record"),
    "blank.json": (" \n \n", ": empty: a data file holds at least one record"),
    "none.json": ("[]", ": empty: a data file holds at least one record"),
    "half.jsonl": (
        '{"a": 1}\n{"a": "b',
        ":2: not valid JSON: Unterminated string starting, found '\"b'",
    ),
    "half_first.jsonl": ('{"a":\n{"a": 1}\n', ":1: not valid JSON: Expecting value, found the end"),
    "half_array.json": ('[{"a": 1},\n{"a":', ":2: not valid JSON: Expecting value, found the end"),
    "open_array.json": ('[{"a": 1}', ":1: not valid JSON: Expecting ',' delimiter, found the end"),
    "no_comma.json": ('[{"a": 1}\n{"a": 2}]', ":2: not valid JSON: Expecting ',' delimiter, found '{\"a\": 2}]'"),
    "open_instances.json": ('{"instances": [{"a": 1}]', ":1: not valid JSON: Expecting ',' delimiter, found the end"),
    "comma_too_many.json": ('[{"a": 1},]', ":1: not valid JSON: Expecting value, found ']'"),
    "two_arrays.json": ('[{"a": 1}]\n[]', ":1: record a list of 1: must be a JSON object"),
    "text.json": ("hello", ":1: not valid JSON: Expecting value, found 'hello'"),
    "number.json": ("42", ":1: record 42: must be a JSON object"),
    "numbers.json": ("[1, 2]", " (record 1): record 1: must be a JSON object"),
    "list.jsonl": ('{"a": 1}\n[1, 2]\n', ":2: record a list of 2: must be a JSON object"),
    "deep.jsonl": ('{"a": ' + "[" * 200_000, ":1: not valid JSON: nested too deeply"),
    "deep.json": ("[" + "[" * 200_000, ":1: not valid JSON: nested too deeply"),
    "digits.jsonl": ('{"a": ' + "1" * 5000 + "}", ":1: not valid JSON: a number of too many digits"),
    "latin.jsonl": (b'{"a": 1}\n{"a": "caf\xe9"}', ':2: near \'{"a": "caf�"}\': must be UTF-8 text'),
    "latin.json": (b'[{"a": 1},\n{"a": "caf\xe9"}]', ':2: near \'{"a": "caf�"}]\': must be UTF-8 text'),
    "utf16.csv": ("a,b".encode("utf-16"), ":1: is UTF-16: must be UTF-8 text"),
    "utf16.jsonl": ("{}".encode("utf-16-be"), ":1: is UTF-16: must be UTF-8 text"),
    "utf32.csv": ("a,b".encode("utf-32"), ":1: is UTF-32: must be UTF-8 text"),
    "zip.jsonl": (b"PK\3\4\x14\0\0\0", ":1: is a zip archive: must be UTF-8 text"),
    "pointer.csv": ("version https://git-lfs.", ":1: is a pointer of Git LFS, without the data: must be UTF-8 text"),
    "twice.jsonl": ('{"a": 1, "b": {"c": 1, "c": 2}}', ":1: key 'c' stands there twice: must be there once"),
    "twice.json": ('[{"a": 1, "a": 2}]', ":1: key 'a' stands there twice: must be there once"),
    "nul.jsonl": (b'{"a": 1}\n{"a": "\0"}', ":2: holds a NUL byte: must be text"),
    "nul.json": (b'[{"a": 1},\n{"a": "\0"}]', ":2: holds a NUL byte: must be text"),
    "twice.csv": ("prompt,A,b,a\n1,2,3,4", ":1: header names 'a' more than once: columns must differ"),
    "short.csv": ("a,b\n1,2\n\n3\n", ":4: row of 1 cells: the header names 2: 'a', 'b'"),
    "long.csv": ("a,b\n1,2,3\n", ":2: row of 3 cells: the header names 2: 'a', 'b'"),
    "open.csv": ('a,b\n1,"2\n3\n', ":2: not valid CSV: unexpected end of data"),
    "quote.csv": ('a,b\n1,"2" or 3\n', ":2: not valid CSV: ',' expected after '\"'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line_with_its_place(tmp_path, name):
    content, message = BAD_FILES[name]
    path = written(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        list(read_file(path))
    assert str(caught.value) == f"{path}{message}"


def test_a_damaged_gzip_file_is_refused(tmp_path):
    whole = gzip.compress("\n".join(json.dumps({"a": str(i) * 9}) for i in range(5000)).encode())
    damages = {
        "cut off": (whole[:-20], "ended before the end-of-stream marker"),
        "overwritten": (whole[:3000] + b"x" * 50 + whole[3050:], ""),
        "not gzip at all": (b'{"a": 1}', "must be compressed as .gz says; it is not compressed"),
    }
    for name, (content, message) in damages.items():
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.*{message}") as caught:
            list(read_file(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no data: name at least one file or folder"),
        (["gone.jsonl"], "gone.jsonl: no such file or folder"),
        (
            ["."],
            ".: folder without data: expected a file ending in .jsonl, .ndjson, .json, .csv, .tsv (each also .gz, ",
        ),
        (["notes.txt"], "notes.txt: unknown kind of file: the name must end in .jsonl, .ndjson, "),
        (["x" * 5000], "no such file or folder"),
    ],
)
def test_paths_without_data_are_refused(tmp_path, monkeypatch, paths, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError) as caught:
        find_files(paths)
    assert message in str(caught.value)


def test_a_file_name_with_a_line_break_does_not_break_the_message(tmp_path):
    path = written(tmp_path, "two\nlines.jsonl", "")
    with pytest.raises(InputError, match=r"two\\nlines.jsonl: empty"):
        list(read_file(path))


@pytest.fixture
def peak_bytes():
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["x.jsonl", "lines.json", "x.csv", "x.jsonl.gz", "x.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, peak_bytes, name):
    text = "A fairly long answer. " * 100
    records = [json.dumps({"prompt": str(i), "chosen": text}) for i in range(2000)]
    if name == "x.parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        path = tmp_path / name
        parquet.write_table(pyarrow_table(map(json.loads, records)), path, row_group_size=100)
    else:
        table = "prompt,chosen\n" + "\n".join(f"{i},{text}" for i in range(2000))
        path = written(tmp_path, name, table if name == "x.csv" else "\n".join(records))
    del records
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    assert sum(1 for _ in read_file(path)) == 2000  # 4.4 MB of text
    assert peak_bytes() - before < 1_000_000


@pytest.mark.parametrize("content, line", [("a,b\r1,2\r", 1), ("a,b\n1,2\r3,4\n", 2)])
def test_a_table_whose_lines_end_in_cr_alone_is_refused(tmp_path, content, line):
    path = written(tmp_path, "x.csv", content)
    with pytest.raises(InputError) as refused:
        fields_of(path)
    assert str(refused.value) == f"{path}:{line}: not valid CSV: a CR alone: lines must end in LF or CRLF"


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.json", "x.csv", "x.tsv"])
def test_texts_may_be_compressed_and_are_recognised_by_content(tmp_path, name, kind):
    content = "a\nq\n" if name.endswith("sv") else '{"a": "q"}\n'
    path = written(tmp_path, f"{name}.{kind}", content)
    assert fields_of(path) == [{"a": "q"}]
    assert fields_of(path.rename(tmp_path / name)) == [{"a": "q"}]


def test_what_is_compressed_twice_is_refused(tmp_path):
    path = written(tmp_path, "x.jsonl.gz", gzip.compress(b"{}"))
    with pytest.raises(InputError, match=r"x\.jsonl\.gz: holds gz within gz: must be compressed once"):
        fields_of(path)


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_damaged_compressed_file_is_refused_in_one_line(tmp_path, kind):
    whole = COMPRESS[kind](b"\n".join(b'{"a": "%d"}' % (i * i) for i in range(20_000)))
    path = tmp_path / f"x.jsonl.{kind}"
    path.write_bytes(whole[: len(whole) // 2] + bytes(60) + whole[len(whole) // 2 + 60 :])
    with pytest.raises(InputError, match=r"x\.jsonl") as caught:
        fields_of(path)
    assert "\n" not in str(caught.value)


def test_a_line_and_a_cell_and_a_document_have_limits(tmp_path, monkeypatch):
    long = "x" * LARGEST_RECORD
    with pytest.raises(InputError, match=r"x\.jsonl:2: a line of more than 16,777,216 bytes: must be shorter"):
        fields_of(written(tmp_path, "x.jsonl", f'{{}}\n{{"a": "{long}"}}'))
    with pytest.raises(InputError, match=r"x\.csv:2: not valid CSV: field larger than field limit"):
        fields_of(written(tmp_path, "x.csv", "a,b\n" + '1,"' + f"{'x' * 63}\n" * (LARGEST_RECORD // 64 + 9) + '"'))
    monkeypatch.setattr("minirm.files.reading.LARGEST_DOCUMENT", 100)
    with pytest.raises(InputError, match=r"x\.json:1: a JSON document of more than 100 bytes: must be smaller; JSON L"):
        fields_of(written(tmp_path, "x.json", "[" + '{"a": 1},' * 50 + "{}]"))


def test_what_expands_without_end_is_refused_before_it_fills_memory(tmp_path, monkeypatch, peak_bytes):
    path = written(tmp_path, "x.jsonl.xz", b'{"a": "x"}\n' * 1_000_000)
    monkeypatch.setattr("minirm.files.reading.LARGEST_DOCUMENT", 1_000)
    monkeypatch.setattr("minirm.files.reading.LARGEST_EXPANSION", 250)
    limit = 250 * path.stat().st_size
    with pytest.raises(InputError, match=rf"x\.jsonl\.xz: expands to more than {limit:,} bytes"):
        for _ in read_file(path):
            pass
    one_line = written(tmp_path, "y.jsonl.gz", b'{"a": "' + b"x" * LARGEST_DOCUMENT)
    tracemalloc.reset_peak()
    with pytest.raises(InputError, match=r"a line of more than|expands to more than"):
        fields_of(one_line)
    assert peak_bytes() < 4 * LARGEST_RECORD + LARGEST_DOCUMENT * 1.1  # what was written is still counted


def test_a_device_and_a_pipe_are_no_files(tmp_path):
    (tmp_path / "x.jsonl").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"x\.jsonl: must be a file"):
        fields_of(tmp_path / "x.jsonl")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrow stream"])
def test_columns_are_read_as_records(tmp_path, kind):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    records = [
        {"prompt": "p", "chosen": [{"role": "user", "content": "é"}], "n": 1.5},
        {"prompt": "q", "chosen": [], "n": None},
    ]
    table = pyarrow_table(records)
    path = tmp_path / f"x.{kind.split()[0]}"
    if kind == "parquet":
        parquet.write_table(table, path)
    else:
        opened = (ipc.new_stream if "stream" in kind else ipc.new_file)(pyarrow.OSFile(str(path), "wb"), table.schema)
        with opened as writer:
            writer.write_table(table)
    assert fields_of(path) == records
    assert [row.place for row in read_file(path)] == [f"{path} (record 1)", f"{path} (record 2)"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"cannot be read: |empty: ") as caught:
        fields_of(path)
    assert "\n" not in str(caught.value)


def test_what_an_extra_reads_says_in_one_line_what_to_install(tmp_path, monkeypatch):
    zst = written(tmp_path, "x.jsonl.zst", b"{}")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for path, library in ((zst, "zstandard"), (written(tmp_path, "x.parquet", b"PAR1"), "pyarrow")):
        with pytest.raises(InputError, match=rf"{path.name}: needs {library}: pip install 'minirm\[data\]'"):
            fields_of(path)


def test_a_folder_that_datasets_saved_is_its_arrow_files_and_of_several_splits_one_is_to_be_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    records = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    datasets.Dataset.from_list(records).save_to_disk(tmp_path / "one")
    assert [row.fields for file in find_files([tmp_path / "one"]) for row in read_file(file)] == records
    both = datasets.DatasetDict({name: datasets.Dataset.from_list(records) for name in ("train", "test")})
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(InputError, match=r"both: holds the splits test, train: name the folder of one of them"):
        find_files([tmp_path / "both"])
    assert len(find_files([tmp_path / "both" / "train"])) == 1


def test_files_about_data_and_folders_of_runs_are_no_data(tmp_path):
    data = written(tmp_path, "x.jsonl", "{}")
    written(tmp_path, "dataset_info.json", "{}")
    for folder, name in (("run", "config.json"), ("evaluation", "report.html")):
        (tmp_path / folder / "best").mkdir(parents=True)
        written(tmp_path / folder, name, "{}")
        written(tmp_path / folder / "best", "state.jsonl", "{}")
        written(tmp_path / folder, "metrics.json", "{}")
    assert find_files([tmp_path]) == [data]


@pytest.mark.parametrize("envelope", ["instances", "data"])
def test_an_object_around_the_records_is_taken_off(tmp_path, envelope):
    assert fields_of(written(tmp_path, "x.json", json.dumps({"version": 1, envelope: RECORDS}))) == RECORDS


@given(cuts=st.lists(st.integers(0, 60), max_size=5), end=st.sampled_from(["", "\n"]))
def test_a_pipe_gives_each_line_as_soon_as_it_is_whole(cuts, end):
    content = ("\n\n".join(LINES) + end).encode()
    edges = sorted({0, *(cut for cut in cuts if cut < len(content)), len(content)})
    pieces = [content[a:b] for a, b in itertools.pairwise(edges)]

    class Pipe(io.RawIOBase):
        def read1(self, _size):
            return pieces.pop(0) if pieces else b""

    seen, taken = [], b""
    for row in read_pipe(Pipe(), "stdin"):
        if row is not None:
            seen.append(row.fields)
        else:  # whatever ended in a line break is out before the next piece is asked for
            taken = content[: len(content) - sum(map(len, pieces))]
            assert len(seen) == sum(bool(line) for line in taken.split(b"\n")[:-1])
    assert seen == RECORDS


def test_a_child_closes_no_file_of_its_own_when_what_its_parent_left_open_is_thrown_away(tmp_path):
    """The number of a file that the parent had open is free in the child, unless something else keeps it."""
    path = tmp_path / "text"
    path.write_text("as it is")
    left_open = [path.open() for _ in range(8)]

    def read(_: object) -> list[str]:
        with contextlib.ExitStack() as stack:
            ours = [stack.enter_context(path.open()) for _ in range(64)]
            left_open.clear()  # as garbage is collected: at any time
            return [file.read() for file in ours]

    child = Guarded(read, "text")
    for _ in range(2):
        assert child("", 5.0) == ["as it is"] * 64
    child.close()
