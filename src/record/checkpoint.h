// All of a resume in one file: weights, optimizer state and what the caller writes down as text.
// Not what any of it means.
#pragma once
#include <map>
#include <optional>
#include <string>

#include "base/tensors.h"
#include "record/run_folder.h"

namespace skipway {

struct Checkpoint {
  NamedTensors model;
  NamedTensors optimizer;
  NamedTensors ema;                             // averages of weights; empty where none are kept
  std::map<std::string, std::string> metadata;  // configuration, step, times …, as the caller likes
};

/// Writes last.safetensors; the one before becomes previous.safetensors, or is lost where it is not
/// worth keeping (`keeps_last`) and what is previous stays. Whenever the process is
/// killed, one of `next`, `last` and `previous` is whole; when the disk is full, both stay as they
/// were. What a killed process left of an unfinished file is removed: the caller has the folder's
/// lock. Errors: kDisk.
void save_checkpoint(const RunFolder& run, const Checkpoint& checkpoint, bool keeps_last = true);

/// Reads the newest that is whole (a hash of the contents is stored with them): `next`, which is
/// there when a kill came before it got its name, else `last`, else `previous`, with a warning in
/// the log that says why. Errors: kCheckpoint when none is whole.
Checkpoint load_checkpoint(const RunFolder& run);

/// `previous`; std::nullopt when it is not there or not whole.
std::optional<Checkpoint> load_previous_checkpoint(const RunFolder& run);

}  // namespace skipway
