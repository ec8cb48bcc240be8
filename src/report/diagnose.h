// Why a run came out as it did, from its own record: symptom, evidence, fix. Runs nothing and
// guesses nothing that the record does not show.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "train/config.h"

namespace skipway {

/// What a run leaves behind, as read.
struct RunRecord {
  std::string run;  // its folder, for the commands in a fix
  Config config;
  std::vector<nlohmann::ordered_json> metrics;
  nlohmann::ordered_json env;
  std::string log;
  bool trouble = false;  // the folder of that name is there
};

struct Cause {
  std::string id;  // "rate"; stays the same from version to version
  std::string symptom, evidence, fix;
};

/// Below it the rules that only explain a low accuracy are asked. The article's mark for CIFAR-10.
inline constexpr double kLowAccuracy = 0.85;

struct Diagnosis {
  std::optional<double>
      accuracy;                 // in [0,1], of the last evaluation; none: there was no evaluation
  std::vector<Cause> findings;  // the most likely first
  bool low() const { return accuracy && *accuracy < kLowAccuracy; }
  bool sound() const { return findings.empty() && !low(); }
};

Diagnosis diagnose(const RunRecord& record);

/// The object that `diagnose --json` prints.
nlohmann::ordered_json to_json(const RunRecord& record, const Diagnosis& diagnosis);

}  // namespace skipway
