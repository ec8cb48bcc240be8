#include "base/json.h"

#include <gtest/gtest.h>

#include <string>

namespace skipway {
namespace {

TEST(ParseJson, TakesWhatPeopleWriteAndNothingDeep) {
  EXPECT_EQ(parse_json(R"({"a": [1, {"b": null}]})").at("a").at(0), 1);
  EXPECT_TRUE(parse_json("{").is_discarded());
  EXPECT_TRUE(parse_json("").is_discarded());
  const auto nested = [](size_t depth) {
    return parse_json(std::string(depth, '[') + std::string(depth, ']'));
  };
  EXPECT_TRUE(nested(10).is_array());
  EXPECT_TRUE(nested(1'000'000).is_discarded());
}

}  // namespace
}  // namespace skipway
