#include "report/lr_plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace skipway {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST(LrPlot, MarksBothPlacesInASvg) {
  LrFindResult result;
  for (int i = 0; i <= 40; ++i) {
    const double decades = -3 + i / 10.;
    const double loss = 0.5 + (decades + 0.5) * (decades + 0.5);
    result.points.push_back({std::pow(10, decades), loss, loss});
  }
  result.steepest = 0.03, result.lowest = 0.32;
  const std::string svg = lr_plot(result);
  EXPECT_THAT(svg, StartsWith("<svg xmlns"));
  EXPECT_THAT(svg, HasSubstr(">steepest 0.03<"));
  EXPECT_THAT(svg, HasSubstr(">lowest 0.32<"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(LrPlot, WithoutPointsThereIsNoPicture) { EXPECT_EQ(lr_plot({}), ""); }

}  // namespace
}  // namespace skipway
