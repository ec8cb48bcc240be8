// JSON that anyone may have written.
#pragma once
#include <nlohmann/json.hpp>
#include <string_view>

namespace skipway {

/// What `text` says; discarded (is_discarded()) where it is no JSON, or nested deeper than anything
/// here is written: nlohmann copies and prints a value level by level on the stack.
template <class Json = nlohmann::ordered_json>
Json parse_json(std::string_view text) {
  constexpr int kMaxDepth = 16;
  struct TooDeep {};
  const auto check = [](int depth, typename Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) throw TooDeep();
    return true;
  };
  try {
    return Json::parse(text, check, /*allow_exceptions=*/false);
  } catch (const TooDeep&) {
    return Json(Json::value_t::discarded);
  }
}

}  // namespace skipway
