#include "report/lr_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace skipway {
namespace {

constexpr double kAreaLeft = 60, kAreaTop = 30, kAreaWidth = 600, kAreaHeight = 320;
constexpr double kHeadroom = 1.3;  // what lies above this share of the first loss is cut off

}  // namespace

std::string lr_plot(const LrFindResult& result) {
  const auto& points = result.points;
  if (points.empty()) return "";
  const double from = std::log10(points.front().lr);
  const double to = std::max(std::log10(points.back().lr), from + 1e-6);
  double low = points.front().smoothed;
  for (const LrPoint& p : points) low = std::min({low, p.smoothed, p.loss});
  const double high = std::max(kHeadroom * points.front().smoothed, low + 1e-6);
  const auto x = [&](double lr) {
    return kAreaLeft + kAreaWidth * (std::log10(lr) - from) / (to - from);
  };
  const auto y = [&](double loss) {
    return kAreaTop + kAreaHeight * std::clamp((high - loss) / (high - low), 0., 1.);
  };

  std::string svg = fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 410" font-family="sans-serif" font-size="13">)"
      R"(<rect width="700" height="410" fill="#fff"/>)"
      R"(<text x="{}" y="20" font-weight="bold">Loss over learning rate</text>)"
      "\n",
      kAreaLeft);
  for (int decade = static_cast<int>(std::floor(from)); decade <= to; ++decade)
    for (const int digit : {1, 2, 5}) {
      const double lr = digit * std::pow(10, decade);
      if (std::log10(lr) < from - 1e-9 || std::log10(lr) > to + 1e-9) continue;
      svg += fmt::format(R"(<line x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}" stroke="#ddd"/>)"
                         R"(<text x="{0:.1f}" y="{3}" text-anchor="middle">{4:g}</text>)"
                         "\n",
                         x(lr), kAreaTop, kAreaTop + kAreaHeight, kAreaTop + kAreaHeight + 20, lr);
    }
  for (int i = 0; i <= 4; ++i) {
    const double loss = low + (high - low) * i / 4;
    svg +=
        fmt::format(R"(<line x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}" stroke="#ddd"/>)"
                    R"(<text x="{3}" y="{4:.1f}" text-anchor="end">{5:.2f}</text>)"
                    "\n",
                    kAreaLeft, kAreaLeft + kAreaWidth, y(loss), kAreaLeft - 8, y(loss) + 4, loss);
  }
  const auto mark = [&](double lr, const char* colour, const char* name, double row) {
    svg += fmt::format(
        R"(<line x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}" stroke="{3}" stroke-dasharray="5 4"/>)"
        R"(<text x="{4:.1f}" y="{5}" fill="{3}">{6} {7:.3g}</text>)"
        "\n",
        x(lr), kAreaTop, kAreaTop + kAreaHeight, colour,
        std::min(x(lr) + 5, kAreaLeft + kAreaWidth - 110), row, name, lr);
  };
  if (result.steepest) {  // else neither says anything
    mark(*result.steepest, "#1b7f3b", "steepest", kAreaTop + kAreaHeight - 24);
    mark(result.lowest, "#b3400a", "lowest", kAreaTop + kAreaHeight - 8);
  }
  std::string line;
  for (const LrPoint& p : points) {
    svg += fmt::format(R"(<circle cx="{:.1f}" cy="{:.1f}" r="1.6" fill="#9bb8da"/>)", x(p.lr),
                       y(p.loss));
    line += fmt::format("{:.1f},{:.1f} ", x(p.lr), y(p.smoothed));
  }
  svg += fmt::format(
      "\n"
      R"(<polyline points="{}" fill="none" stroke="#1f5fa8" stroke-width="2"/>)"
      R"(<text x="{}" y="{}" text-anchor="middle">learning rate (log scale)</text></svg>)"
      "\n",
      line, kAreaLeft + kAreaWidth / 2, kAreaTop + kAreaHeight + 44);
  return svg;
}

}  // namespace skipway
