"""Reads a Perfetto trace by Perfetto's own definitions, and holds it against requests.csv of the same run.

    python perfetto_trace.py TRACE RUN_DIR

With trace_processor, where the perfetto package can have it, by its SQL too.
"""

import csv
import sys
from collections import defaultdict

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

STAGES = {"queued", "held back", "connect", "send", "to headers", "prefill", "decode", "end"}


def main():
    path, run = sys.argv[1:]
    trace = proto.Trace()
    with open(path, "rb") as file:
        trace.ParseFromString(file.read())
    with open(f"{run}/requests.csv", newline="", encoding="utf-8") as file:
        rows = {(r["agent"], r["request_id"]): r for r in csv.DictReader(file)}
    tracks, names, keys = {}, {}, {}
    slices, open_slices, curves = [], defaultdict(list), defaultdict(int)
    for packet in trace.packet:
        names.update((n.iid, n.name) for n in packet.interned_data.event_names)
        keys.update((n.iid, n.name) for n in packet.interned_data.debug_annotation_names)
        if packet.HasField("track_descriptor"):
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        if not packet.HasField("track_event"):
            continue
        event = packet.track_event
        args = {keys[a.name_iid]: value_of(a) for a in event.debug_annotations}
        if event.type == proto.TrackEvent.TYPE_SLICE_BEGIN:
            open_slices[event.track_uuid].append((names[event.name_iid], packet.timestamp, args))
        elif event.type == proto.TrackEvent.TYPE_SLICE_END:
            name, start, args = open_slices[event.track_uuid].pop()
            slices.append((event.track_uuid, name, start, packet.timestamp, args))
        elif event.type == proto.TrackEvent.TYPE_COUNTER:
            assert tracks[event.track_uuid].HasField("counter")
            curves[tracks[event.track_uuid].name] += 1
    assert not any(open_slices.values()), "a slice never ends"
    shown = [s for s in slices if s[1].endswith("request")]
    told = next(s[4] for s in slices if s[1] == "run")
    assert told["requests"] == len(rows) and told["requests_shown"] == len(shown), told
    for track, _, start, end, args in shown:
        parent = tracks[tracks[track].parent_uuid]
        agent = parent.process.process_name.removeprefix("agent ")
        row = rows[(agent, args["request_id"])]
        assert abs(start - float(row["t_s"]) * 1e9) < 2e3 and abs(end - float(row["done_s"]) * 1e9) < 2e3, row
    # The server's side has stages of the same names, beneath.
    of_client = lambda track: tracks[track].name.startswith("requests ")
    stages = sum(end - start for track, name, start, end, _ in slices if name in STAGES and of_client(track))
    assert stages == sum(end - start for _, _, start, end, _ in shown), "stages do not add up to their requests"
    assert curves["in flight"] and curves["content chunks"], dict(curves)
    print(f"trace: {len(shown)} requests of {len(rows)}, {len(slices)} slices, curves {dict(curves)}")
    by_trace_processor(path, len(shown))


def value_of(annotation):
    return getattr(annotation, annotation.WhichOneof("value"))


def by_trace_processor(path, shown):
    try:
        from perfetto.trace_processor import TraceProcessor

        processor = TraceProcessor(trace=path)
    except Exception as error:  # It fetches a binary, which not every network lets it.
        print(f"skipped: trace_processor cannot be had here ({type(error).__name__})")
        return
    count = lambda sql: next(iter(processor.query(sql))).n
    assert count("select count(*) as n from slice where name glob '*request'") == shown
    errors = count("select coalesce(sum(value), 0) as n from stats where severity = 'error'")
    assert errors == 0, f"trace_processor counts {errors} errors"
    print("trace_processor reads it without an error")
    processor.close()


if __name__ == "__main__":
    main()
