// A run's metrics.jsonl by its events, as the report and the diagnosis read it. What an older or a
// damaged run lacks is not there, and is no error.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace skipway {

/// What a path like "accuracy/last" leads to; nullptr when it is not there.
const nlohmann::ordered_json* value_at(const nlohmann::ordered_json& object, std::string_view path);
std::optional<double> number_at(const nlohmann::ordered_json& object, std::string_view path);
/// Empty when it is not there, or no text.
std::string text_at(const nlohmann::ordered_json& object, std::string_view path);

struct History {
  nlohmann::ordered_json begin = nlohmann::ordered_json::object();
  std::vector<nlohmann::ordered_json> epochs;  // by step
  std::vector<nlohmann::ordered_json> rollbacks;
  std::optional<nlohmann::ordered_json> end;  // none: the run did not come to its end
  // After its last rollback, or at an evaluation that is not finite.
  std::optional<nlohmann::ordered_json> gave_up;
};

/// A resumed run may report steps again that it had reported after the checkpoint it went on from:
/// the later lines count, and what had ended it before does not.
History history_of(const std::vector<nlohmann::ordered_json>& lines);

}  // namespace skipway
