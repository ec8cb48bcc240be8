// The page a person reads about a run: one HTML file that needs nothing else. Computes no figure
// that the run folder does not hold.
#pragma once
#include "record/run_folder.h"

namespace skipway {

/// Writes report.html from config.toml, env.json and metrics.jsonl: result, curves, classes,
/// confusion, the command that repeats the run, configuration, machine. No script, nothing loaded
/// from elsewhere, every text from outside escaped. A run without its "end" line is shown as far as
/// it went, and said to have stopped or given up. Errors: kData for damaged metrics; kDisk.
void write_report(const RunFolder& run);

}  // namespace skipway
