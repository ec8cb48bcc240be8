#include "report/history.h"

#include <gtest/gtest.h>

namespace skipway {
namespace {

using Json = nlohmann::ordered_json;

Json line(const char* event, int step = 0) { return {{"event", event}, {"step", step}}; }

TEST(History, LaterLinesOfAStepTakeThePlaceOfEarlierOnes) {
  std::vector<Json> lines = {line("begin"), line("epoch", 10), line("epoch", 20), line("epoch", 30),
                             line("epoch", 20)};
  lines.back()["loss"] = 0.5;
  const History history = history_of(lines);
  ASSERT_EQ(history.epochs.size(), 2u);
  EXPECT_EQ(number_at(history.epochs[0], "step"), 10);
  EXPECT_EQ(number_at(history.epochs[1], "loss"), 0.5);
  EXPECT_EQ(text_at(history.begin, "event"), "begin");
}

TEST(History, ARunThatGoesOnHasNeitherEndedNorGivenUp) {
  std::vector<Json> lines = {line("epoch", 10), line("rollback", 12), line("gave_up", 14)};
  EXPECT_TRUE(history_of(lines).gave_up.has_value());
  lines.push_back(line("epoch", 20));
  EXPECT_FALSE(history_of(lines).gave_up.has_value());
  lines.push_back(line("end"));
  EXPECT_TRUE(history_of(lines).end.has_value());
  lines.push_back(line("epoch", 30));
  const History history = history_of(lines);
  EXPECT_FALSE(history.end.has_value());
  EXPECT_EQ(history.rollbacks.size(), 1u);
}

TEST(History, WhatIsNotThereHasNoValue) {
  const Json object = {{"accuracy", {{"last", 0.9}, {"n", "many"}}}};
  EXPECT_EQ(number_at(object, "accuracy/last"), 0.9);
  EXPECT_EQ(number_at(object, "accuracy/n"), std::nullopt);
  EXPECT_EQ(number_at(object, "accuracy/last/more"), std::nullopt);
  EXPECT_EQ(text_at(object, "accuracy/n"), "many");
  EXPECT_EQ(text_at(object, "accuracy"), "");
  EXPECT_EQ(value_at(object, "loss"), nullptr);
}

}  // namespace
}  // namespace skipway
