#include "report/history.h"

#include <algorithm>

namespace skipway {

using Json = nlohmann::ordered_json;

const Json* value_at(const Json& object, std::string_view path) {
  const Json* value = &object;
  while (!path.empty()) {
    const std::string key(path.substr(0, path.find('/')));
    path.remove_prefix(std::min(path.size(), key.size() + 1));
    if (!value->is_object() || !value->contains(key)) return nullptr;
    value = &(*value)[key];
  }
  return value;
}

std::optional<double> number_at(const Json& object, std::string_view path) {
  const Json* value = value_at(object, path);
  return value && value->is_number() ? std::optional(value->get<double>()) : std::nullopt;
}

std::string text_at(const Json& object, std::string_view path) {
  const Json* value = value_at(object, path);
  return value && value->is_string() ? value->get<std::string>() : "";
}

History history_of(const std::vector<Json>& lines) {
  History history;
  const auto step_of = [](const Json& line) { return number_at(line, "step").value_or(0); };
  for (const Json& line : lines) {
    const std::string event = text_at(line, "event");
    if (event == "begin") history.begin = line;
    if (event == "rollback") history.rollbacks.push_back(line);
    if (event == "gave_up") history.gave_up = line;
    if (event == "epoch") {
      history.end.reset();
      while (!history.epochs.empty() && step_of(history.epochs.back()) >= step_of(line))
        history.epochs.pop_back();
      history.epochs.push_back(line);
    }
    if (event == "end") history.end = line;
    if (event == "epoch" || event == "end") history.gave_up.reset();
  }
  return history;
}

}  // namespace skipway
