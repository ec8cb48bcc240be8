#include "train/stages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/for_test.h"

namespace skipway {
namespace {

const Stage kSmall{.end = 0.55, .side = 16};

TEST(Stages, NoneIsOneStageOfTheWholeTask) {
  EXPECT_EQ(make_stages("none", 0, 32, kSmall), (std::vector<Stage>{{1, 32, false}}));
}

TEST(Stages, SidesRiseToTheImageSize) {
  EXPECT_EQ(make_stages("16:0.5,24:0.75", 0, 32, kSmall),
            (std::vector<Stage>{{0.5, 16, false}, {0.75, 24, false}, {1, 32, false}}));
}

TEST(Stages, AutoIsForLargeImagesOnly) {
  EXPECT_EQ(make_stages("auto", 0, 32, kSmall),
            (std::vector<Stage>{{0.55, 16, false}, {1, 32, false}}));
  EXPECT_EQ(make_stages("auto", 0, 28, kSmall), (std::vector<Stage>{{1, 28, false}}));
}

TEST(Stages, ShallowStepsEndOnTheirOwn) {
  EXPECT_EQ(make_stages("16:0.5", 0.25, 32, kSmall),
            (std::vector<Stage>{{0.25, 16, true}, {0.5, 16, false}, {1, 32, false}}));
  EXPECT_EQ(make_stages("16:0.5", 0.5, 32, kSmall),
            (std::vector<Stage>{{0.5, 16, true}, {1, 32, false}}));
}

TEST(Stages, RefusesWhatItCannotMean) {
  for (const char* resize : {"", "16", "16:", "16:x", "16:0.5,", "16:0.5;24:0.7", "32:0.5",
                             "40:0.5", "0:0.5", "16:0", "16:1", "24:0.5,16:0.7", "16:0.5,24:0.5"}) {
    const Error error = error_of([&] { make_stages(resize, 0, 32, kSmall); });
    EXPECT_EQ(error.kind(), ErrorKind::kUsage) << resize;
    EXPECT_THAT(error.what(), testing::HasSubstr("--resize")) << resize;
  }
}

TEST(Stages, AStepBelongsToTheStageThatItsShareIsIn) {
  const auto stages = make_stages("16:0.5,24:0.75", 0, 32, kSmall);
  EXPECT_EQ(stage_at(stages, 0, 0), 0u);
  EXPECT_EQ(stage_at(stages, 0.49, 0), 0u);
  EXPECT_EQ(stage_at(stages, 0.5, 0), 1u);
  EXPECT_EQ(stage_at(stages, 1, 0), 2u);
}

TEST(Stages, SecondsInWhichSomethingElseRanEndNone) {
  double length = 100;
  for (int step = 0; step < 20; ++step) length = steady_length(length, 40, 0.5 / 60);
  EXPECT_GT(length, 88);
  EXPECT_EQ(steady_length(length, 110, 0.5 / 60), 110);
  for (int step = 0; step < 600; ++step) length = steady_length(length, 40, 0.5 / 60);
  EXPECT_LT(length, 41);
  EXPECT_EQ(steady_length(100, 40, 2), 40);
}

TEST(Stages, ARunPlannedAnewNeverGoesBack) {
  const auto stages = make_stages("16:0.5,24:0.75", 0, 32, kSmall);
  EXPECT_EQ(stage_at(stages, 0.4, 1), 1u);
}

}  // namespace
}  // namespace skipway
