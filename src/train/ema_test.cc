#include "train/ema.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace skipway {
namespace {

NamedTensors state(double value) {
  return {{"w", at::full({2, 3}, value)}, {"tracked", at::ones({}, at::kLong)}};
}

TEST(Ema, FollowsWithItsDecayOnceItIsOld) {
  const NamedTensors live = state(0);
  Ema ema(live, 0.9);
  for (int64_t step = 1; step <= 1000; ++step) ema.update(step, 1000);  // old, and at zero
  live[0].second.fill_(1);
  for (int64_t step = 1001; step <= 1020; ++step) ema.update(step, 1000);
  const EmaScope average(ema);
  EXPECT_NEAR(live[0].second[0][0].item<double>(), 1 - std::pow(0.9, 20), 1e-5);
}

TEST(Ema, IsTheMeanOfTheFirstUpdatesMoreOrLess) {
  const NamedTensors live = state(0);
  Ema ema(live, 0.999);
  live[0].second.fill_(1);
  for (int64_t step = 1; step <= 500; ++step) ema.update(step, 1000);
  const EmaScope average(ema);
  EXPECT_GT(live[0].second[0][0].item<double>(), 0.95);
}

TEST(Ema, ItsFirstUpdateTakesTenElevenths) {
  const NamedTensors live = state(0);
  Ema ema(live, 0.999);
  for (int64_t step = 1; step < 5; ++step) ema.update(step, 100);
  live[0].second.fill_(1);
  ema.update(5, 100);
  EXPECT_NEAR(ema.state()[0].second[0][0].item<double>(), 10. / 11, 1e-6);
}

TEST(Lookahead, WeightsGoToTheAverageWhichFollowsThemLessAndLess) {
  const NamedTensors live = state(0);
  Ema ema(live, 0, /*lookahead=*/true);
  const auto weight = [&] { return live[0].second[0][0].item<double>(); };
  live[0].second.fill_(1);
  ema.update(49, 100);
  EXPECT_EQ(weight(), 1);  // not every step
  ema.update(50, 100);
  const double average = 1 - std::pow(0.95, 5) / 8;  // half of the run: an eighth of the decay
  EXPECT_NEAR(weight(), average, 1e-6);
  live[0].second.fill_(2);
  ema.update(100, 100);
  EXPECT_NEAR(weight(), 2 + (average - 2) * std::pow(0.95, 5), 1e-6);
}

TEST(Ema, OfAShortRunIsItsLastState) {
  for (const bool lookahead : {false, true}) {
    const NamedTensors live = state(0);
    Ema ema(live, lookahead ? 0 : 0.9, lookahead);
    for (int64_t step = 1; step <= 3; ++step) {
      live[0].second.fill_(static_cast<double>(step));
      ema.update(step, 3);
    }
    const EmaScope average(ema);
    EXPECT_EQ(live[0].second[0][0].item<double>(), 3) << lookahead;
  }
}

TEST(Ema, TheScopeGivesTheLiveWeightsBack) {
  const NamedTensors live = state(0);
  Ema ema(live, 0.5);
  live[0].second.fill_(3);
  {
    const EmaScope average(ema);
    EXPECT_EQ(live[0].second[0][0].item<double>(), 0);
  }
  EXPECT_EQ(live[0].second[0][0].item<double>(), 3);
}

TEST(Ema, StateGoesIntoAnother) {
  const NamedTensors live = state(2), other_live = state(7);
  Ema ema(live, 0.9), other(other_live, 0.9);
  other.load_state(ema.state(), "here");
  const EmaScope average(other);
  EXPECT_EQ(other_live[0].second[0][0].item<double>(), 2);
}

TEST(Ema, RefusesAStateOfAnotherModel) {
  const NamedTensors live = state(2);
  Ema ema(live, 0.9);
  EXPECT_THROW(ema.load_state({{"w", at::zeros({3, 3})}}, "here"), Error);
  EXPECT_THROW(ema.load_state({}, "here"), Error);
}

TEST(Ema, WithoutADecayItKeepsNothing) {
  const NamedTensors live = state(2);
  Ema ema(live, 0);
  ema.update(5, 1000);
  const EmaScope average(ema);
  EXPECT_EQ(live[0].second[0][0].item<double>(), 2);
  EXPECT_TRUE(ema.state().empty());
}

}  // namespace
}  // namespace skipway
