// Decoding of what cameras, scanners and screens leave, and of what is left of it after damage.
#include "data/image.h"

#include <cmath>
#include <string>

#include "data/files_for_test.h"

namespace skipway {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<uint8_t> repeated(const std::vector<uint8_t>& pixel, size_t count) {
  std::vector<uint8_t> pixels;
  for (size_t i = 0; i < count; ++i) pixels.insert(pixels.end(), pixel.begin(), pixel.end());
  return pixels;
}

void expect_colour(const Image& image, const std::vector<int>& rgb, int tolerance) {
  ASSERT_EQ(image.rgb.size(), static_cast<size_t>(image.height * image.width * 3));
  for (size_t i = 0; i < image.rgb.size(); ++i) {
    ASSERT_NEAR(image.rgb[i], rgb[i % 3], tolerance) << "byte " << i;
  }
}

std::string sixteen_bit_grey_png(uint16_t value) {
  std::string bytes;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &bytes,
      [](png_structp p, png_bytep data, size_t size) {
        static_cast<std::string*>(png_get_io_ptr(p))->append(reinterpret_cast<char*>(data), size);
      },
      nullptr);
  png_set_IHDR(png, info, 1, 1, 16, PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, info);
  const png_byte row[2] = {static_cast<png_byte>(value >> 8), static_cast<png_byte>(value)};
  png_write_row(png, row);
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return bytes;
}

TEST(Image, DecodesPngBitForBit) {
  const Image image = sample_image(5, 7);
  const Image decoded = decode_image(png_bytes(image), "a.png");
  EXPECT_EQ(decoded.height, 5);
  EXPECT_EQ(decoded.width, 7);
  EXPECT_EQ(decoded.rgb, image.rgb);
}

TEST(Image, DecodesJpegCloseToWhatWasStored) {
  expect_colour(decode_image(jpeg_bytes(9, 17, repeated({200, 40, 90}, 9 * 17)), "a.jpg"),
                {200, 40, 90}, 2);
  const Image image = sample_image(16, 16);
  const Image decoded = decode_image(jpeg_bytes(image), "a.jpg");
  double difference = 0;
  for (size_t i = 0; i < image.rgb.size(); ++i) {
    difference += std::abs(decoded.rgb[i] - image.rgb[i]);
  }
  EXPECT_LT(difference / static_cast<double>(image.rgb.size()), 4);
}

TEST(Image, GreyBecomesThreeEqualChannels) {
  const std::vector<uint8_t> grey(64, 77);
  expect_colour(decode_image(jpeg_bytes(8, 8, grey, {JCS_GRAYSCALE, JCS_GRAYSCALE, 1}), "a.jpg"),
                {77, 77, 77}, 1);
  expect_colour(decode_image(png_bytes(8, 8, grey, PNG_FORMAT_GRAY), "a.png"), {77, 77, 77}, 0);
}

TEST(Image, CmykBecomesRgb) {
  // Ink 55/255 cyan, 155/255 magenta, none yellow, 51/255 black: light = (1 - ink) * (1 - black).
  const auto ink = repeated({55, 155, 0, 51}, 64);
  const std::vector<int> rgb = {160, 80, 204};
  expect_colour(decode_image(jpeg_bytes(8, 8, ink, {JCS_CMYK, JCS_CMYK, 4}), "a.jpg"), rgb, 3);
}

TEST(Image, AdobesInvertedCmykAndYcckBecomeRgb) {
  const auto inverted_ink = repeated({200, 100, 255, 204}, 64);
  const std::vector<int> rgb = {160, 80, 204};
  for (J_COLOR_SPACE stored : {JCS_CMYK, JCS_YCCK}) {
    const std::string bytes = jpeg_bytes(8, 8, inverted_ink, {JCS_CMYK, stored, 4, true});
    expect_colour(decode_image(bytes, "a.jpg"), rgb, 3);
  }
}

TEST(Image, AlphaIsLaidOverBlack) {
  EXPECT_THAT(decode_image(png_bytes(1, 1, {200, 100, 50, 51}, PNG_FORMAT_RGBA), "a").rgb,
              ElementsAre(40, 20, 10));
  EXPECT_THAT(decode_image(png_bytes(1, 1, {255, 102}, PNG_FORMAT_GA), "a").rgb, Each(102));
}

TEST(Image, SixteenBitsBecomeEight) {
  EXPECT_THAT(decode_image(sixteen_bit_grey_png(0x8080), "a").rgb, ElementsAre(0x80, 0x80, 0x80));
  EXPECT_THAT(decode_image(sixteen_bit_grey_png(0x10ff), "a").rgb, Each(0x11));
}

TEST(Image, EveryCutOffFileIsAnError) {
  for (const std::string& bytes :
       {jpeg_bytes(sample_image(16, 16)), png_bytes(sample_image(16, 16))}) {
    ASSERT_NO_THROW(decode_image(bytes, "whole"));
    for (size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_THAT(message_of(ErrorKind::kData, [&] { decode_image(bytes.substr(0, size), "cut"); }),
                  HasSubstr("at cut"))
          << size << " of " << bytes.size() << " bytes";
    }
  }
}

TEST(Image, DamagedPixelsAreAnError) {
  std::string png = png_bytes(sample_image(16, 16));
  png[png.find("IDAT") + 20] ^= 0x10;
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { decode_image(png, "a.png"); }),
              HasSubstr("a.png"));
  std::string jpeg = jpeg_bytes(sample_image(64, 64));
  jpeg.replace(jpeg.size() / 2, 40, 40, '\xff');
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { decode_image(jpeg, "a.jpg"); }),
              HasSubstr("a.jpg"));
}

// As some cameras and old programs write it; every viewer shows such a file.
TEST(Image, AnOddVersionOfJfifIsNoDamage) {
  std::string jpeg = jpeg_bytes(9, 17, repeated({200, 40, 90}, 9 * 17));
  ASSERT_EQ(jpeg.substr(6, 4), "JFIF");
  jpeg[11] = 0;
  expect_colour(decode_image(jpeg, "a.jpg"), {200, 40, 90}, 3);
}

TEST(Image, OtherFilesAreToldByTheirBytes) {
  EXPECT_THAT(message_of(ErrorKind::kData, [] { decode_image("plain text", "text.jpg"); }),
              HasSubstr("another kind at text.jpg"));
  EXPECT_THAT(message_of(ErrorKind::kData, [] { decode_image("", "none.png"); }),
              HasSubstr("an empty file at none.png"));
}

TEST(Image, TooManyPixelsAreRefusedBeforeDecoding) {
  std::string png = png_bytes(sample_image(4, 4));
  png.replace(16, 8, std::string("\x00\x00\x80\x00\x00\x00\x40\x00", 8));  // 2^15 x 2^14
  png.replace(29, 4, "\x87\x03\xab\xa3");                                  // the header's checksum
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { image_shape(png, "a.png"); }),
              HasSubstr("32768 x 16384 pixels"));
  std::string jpeg = jpeg_bytes(sample_image(8, 8));
  const size_t frame = jpeg.find("\xff\xc0");
  jpeg.replace(frame + 5, 4, "\xff\xd0\xff\xd0");
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { decode_image(jpeg, "a.jpg"); }),
              HasSubstr("65488 x 65488 pixels"));
}

TEST(Image, MorePixelsThanTheBytesCanHaveAreRefusedBeforeDecoding) {
  std::string jpeg = jpeg_bytes(sample_image(8, 8));
  jpeg.replace(jpeg.find("\xff\xc0") + 5, 4, std::string("\x40\x00\x40\x00", 4));
  EXPECT_THAT(message_of(ErrorKind::kData, [&] { decode_image(jpeg, "a.jpg"); }),
              HasSubstr(fmt::format("16384 x 16384 pixels in {} bytes at a.jpg", jpeg.size())));
  const Image grey{3000, 3000, std::vector<uint8_t>(3000 * 3000 * 3, 99)};
  for (const std::string& bytes : {jpeg_bytes(grey), png_bytes(grey)})
    EXPECT_EQ(decode_image(bytes, "a").height, 3000);
}

TEST(Image, ShapeComesFromTheHeader) {
  const Image image = sample_image(5, 9);
  for (const std::string& bytes : {jpeg_bytes(image), png_bytes(image)}) {
    EXPECT_EQ(image_shape(bytes, "a").height, 5);
    EXPECT_EQ(image_shape(bytes, "a").width, 9);
  }
}

TEST(Image, FittingToItsOwnSizeChangesNothing) {
  const Image image = sample_image(12, 12);
  EXPECT_EQ(fit_image(image, 12).rgb, image.rgb);
}

TEST(Image, HalvingWeighsFourPixelsAsATriangle) {
  Image image{8, 8, {}};
  const std::vector<int> row = {0, 240, 16, 128, 200, 40, 80, 8};
  for (int y = 0; y < 8; ++y) {
    for (int value : row) image.rgb.insert(image.rgb.end(), 3, static_cast<uint8_t>(value));
  }
  const Image half = fit_image(image, 4);
  ASSERT_EQ(half.rgb.size(), 4u * 4 * 3);
  for (int x : {1, 2}) {  // inside, where no weight falls off the edge
    const int i = 2 * x;
    const double expected = (row[i - 1] + 3 * row[i] + 3 * row[i + 1] + row[i + 2]) / 8.0;
    EXPECT_NEAR(half.rgb[static_cast<size_t>(3 * x)], expected, 1);
  }
}

TEST(Image, FittingKeepsTheMiddleOfTheLongerSide) {
  Image image{4, 12, {}};
  for (int i = 0; i < 4 * 12; ++i) {
    const int x = i % 12;
    image.rgb.insert(image.rgb.end(), 3, x >= 4 && x < 8 ? 200 : 10);
  }
  EXPECT_THAT(fit_image(image, 4).rgb, Each(200));
}

TEST(Image, StripsFitWithoutGrowing) {
  Image strip{1, 1'000'000, std::vector<uint8_t>(3'000'000, 9)};
  EXPECT_THAT(fit_image(strip, 32).rgb, Each(9));
  Image column{1'000'000, 1, std::vector<uint8_t>(3'000'000, 9)};
  EXPECT_EQ(fit_image(column, 32).rgb.size(), 32u * 32 * 3);
}

TEST(Image, WrittenPngReadsBackTheSame) {
  const TemporaryFolder folder;
  const Image image = sample_image(6, 3);
  write_png(folder.path() / "a.png", image);
  EXPECT_EQ(decode_image(read_file(folder.path() / "a.png"), "a.png").rgb, image.rgb);
  EXPECT_NE(message_of(ErrorKind::kDisk, [&] { write_png(folder.path() / "no/a.png", image); }),
            "");
}

}  // namespace
}  // namespace skipway
