// A stack machine for the opcodes that data needs; opcodes of classes are refused. Values stand in
// one list and point at each other, so that no depth of nesting can exhaust the stack.
#include "record/pickle.h"

#include <bit>
#include <cstring>
#include <unordered_map>

#include "base/error.h"

namespace skipway {
namespace {

using Kind = PickleValue::Kind;

// Opcodes, each of which makes one value at most, and copies of values: some 200 MB. A ResNet-152
// has 30,000.
constexpr size_t kMaxSteps = 2'000'000;
constexpr const char* kOrderedDict = "collections.OrderedDict";

class Reader {
 public:
  Reader(std::string_view bytes, const std::set<std::string>& globals, const std::string& where)
      : bytes_(bytes), globals_(globals), where_(where) {}

  Pickle read() {
    while (step(static_cast<uint8_t>(take(1)[0]))) {
    }
    pickle_.root = pop();
    pickle_.bytes = at_;
    return std::move(pickle_);
  }

 private:
  [[noreturn]] void complain(const std::string& expected) const {
    fail(ErrorKind::kData, "pickle", "expected {} at byte {} of {}", expected, at_, where_);
  }

  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - at_) complain(fmt::format("{} more bytes; it is cut short", count));
    const std::string_view taken = bytes_.substr(at_, count);
    at_ += count;
    return taken;
  }
  uint64_t take_integer(size_t width) {  // little-endian
    const std::string_view taken = take(width);
    uint64_t value = 0;
    for (size_t i = width; i-- > 0;) value = value << 8 | static_cast<uint8_t>(taken[i]);
    return value;
  }
  std::string take_line() {
    const size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) complain("the end of a line; it is cut short");
    std::string line(take(end - at_));
    ++at_;
    return line;
  }

  void count(size_t steps) {
    if (steps > kMaxSteps - steps_)
      complain(fmt::format("at most {} opcodes and copies of values", kMaxSteps));
    steps_ += steps;
  }

  PickleValue* push(Kind kind) {
    PickleValue* value = &pickle_.values.emplace_back();
    value->kind = kind;
    stack_.push_back(value);
    return value;
  }
  void push_integer(int64_t value, Kind kind = Kind::kInt) { push(kind)->integer = value; }
  void push_text(uint64_t count) {
    const std::string_view text = take(count);
    push(Kind::kText)->text = text;
  }

  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  PickleValue* top() {
    if (stack_.size() <= floor()) complain("a value on the stack");
    return stack_.back();
  }
  PickleValue* pop() {
    PickleValue* value = top();
    stack_.pop_back();
    return value;
  }
  std::vector<PickleValue::Pointer> pop_to_mark() {
    if (marks_.empty()) complain("a mark on the stack");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleValue::Pointer> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }
  void push_tuple(size_t count) {
    std::vector<PickleValue::Pointer> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    push(Kind::kTuple)->items = std::move(items);
  }
  void append(Kind kind, const std::vector<PickleValue::Pointer>& items) {
    PickleValue* target = top();
    if (target->kind != kind || (kind == Kind::kDict && items.size() % 2 != 0))
      complain(kind == Kind::kDict ? "a dict and pairs for it" : "a list to append to");
    target->items.insert(target->items.end(), items.begin(), items.end());
  }

  void remember(uint64_t index) { memo_[index] = top(); }
  void recall(uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) complain(fmt::format("a value put down as number {}", index));
    stack_.push_back(found->second);
  }

  void push_global(const std::string& module, const std::string& name) {
    const std::string full = module + "." + name;
    if (full != kOrderedDict && !globals_.contains(full))
      fail(ErrorKind::kData, "pickle",
           "expected tensors alone, got {} in {}; nothing was run. Save the state_dict by itself "
           "if you trust the file",
           full.substr(0, 200), where_);
    push(Kind::kGlobal)->text = full;
  }

  void reduce() {
    const PickleValue* arguments = pop();
    const PickleValue* callable = pop();
    if (callable->kind != Kind::kGlobal || arguments->kind != Kind::kTuple)
      complain("a function's name and a tuple of arguments");
    if (callable->text != kOrderedDict) {
      push(Kind::kCall)->items = {callable, arguments};
      return;
    }
    PickleValue* dict = push(Kind::kDict);
    if (arguments->items.empty()) return;
    // Python 2 hands over a list of [key, value].
    const auto& pairs = arguments->items.front()->items;
    count(2 * pairs.size());
    for (const PickleValue* pair : pairs) {
      if (pair->items.size() != 2) complain("pairs of a key and a value");
      dict->items.insert(dict->items.end(), pair->items.begin(), pair->items.end());
    }
  }

  // The state of an object that a call makes; attributes of others, such as the _metadata of a
  // state_dict, are left out.
  void build() {
    const PickleValue* state = pop();
    PickleValue* object = top();
    if (object->kind == Kind::kCall) object->items.push_back(state);
  }

  void push_long(uint64_t count) {
    const std::string_view taken = take(count);
    if (count > 16) complain("whole numbers of at most 16 bytes");
    uint64_t value = !taken.empty() && (taken.back() & 0x80) != 0 ? ~uint64_t{0} : 0;
    for (size_t i = std::min<size_t>(count, 8); i-- > 0;)
      value = value << 8 | static_cast<uint8_t>(taken[i]);
    push_integer(static_cast<int64_t>(value));
  }

  // False after the last opcode.
  bool step(uint8_t opcode) {
    count(1);
    switch (opcode) {
      case 0x80:
        take(1);
        break;  // PROTO
      case 0x95:
        take(8);
        break;  // FRAME
      case '.':
        return false;  // STOP
      case '(':
        marks_.push_back(stack_.size());
        break;  // MARK
      case '0':
        pop();
        break;  // POP
      case 'N':
        push(Kind::kNone);
        break;  // NONE
      case 0x88:
        push_integer(1, Kind::kBool);
        break;  // NEWTRUE
      case 0x89:
        push_integer(0, Kind::kBool);
        break;  // NEWFALSE
      case 'J':
        push_integer(static_cast<int32_t>(take_integer(4)));
        break;  // BININT
      case 'K':
        push_integer(static_cast<int64_t>(take_integer(1)));
        break;  // BININT1
      case 'M':
        push_integer(static_cast<int64_t>(take_integer(2)));
        break;  // BININT2
      case 0x8a:
        push_long(take_integer(1));
        break;  // LONG1
      case 'G':
        push_double();
        break;  // BINFLOAT
      case 'X':
      case 'T':
      case 'B':
        push_text(take_integer(4));
        break;  // BINUNICODE, BINSTRING…
      case 0x8c:
      case 'U':
      case 'C':
        push_text(take_integer(1));
        break;  // SHORT_BINUNICODE…
      case 0x8d:
      case 0x8e:
        push_text(take_integer(8));
        break;  // BINUNICODE8, BINBYTES8
      case '}':
        push(Kind::kDict);
        break;  // EMPTY_DICT
      case ']':
        push(Kind::kList);
        break;  // EMPTY_LIST
      case ')':
        push(Kind::kTuple);
        break;  // EMPTY_TUPLE
      case 0x85:
        push_tuple(1);
        break;  // TUPLE1
      case 0x86:
        push_tuple(2);
        break;  // TUPLE2
      case 0x87:
        push_tuple(3);
        break;  // TUPLE3
      case 't':
        push_marked(Kind::kTuple);
        break;  // TUPLE
      case 'l':
        push_marked(Kind::kList);
        break;  // LIST
      case 'd':
        push_marked(Kind::kDict);
        break;  // DICT
      case 'a': {
        const auto* item = pop();
        append(Kind::kList, {item});
        break;
      }  // APPEND
      case 'e':
        append(Kind::kList, pop_to_mark());
        break;  // APPENDS
      case 's': {
        const auto* value = pop();
        const auto* key = pop();
        append(Kind::kDict, {key, value});
        break;
      }  // SETITEM
      case 'u':
        append(Kind::kDict, pop_to_mark());
        break;  // SETITEMS
      case 'q':
        remember(take_integer(1));
        break;  // BINPUT
      case 'r':
        remember(take_integer(4));
        break;  // LONG_BINPUT
      case 0x94:
        remember(memo_.size());
        break;  // MEMOIZE
      case 'h':
        recall(take_integer(1));
        break;  // BINGET
      case 'j':
        recall(take_integer(4));
        break;  // LONG_BINGET
      case 'c': {
        const std::string module = take_line();
        push_global(module, take_line());
        break;
      }  // GLOBAL
      case 'i': {
        auto arguments = pop_to_mark();
        const std::string module = take_line();
        push_global(module, take_line());
        push(Kind::kTuple)->items = std::move(arguments);
        reduce();
        break;
      }  // INST
      case 0x93: {
        const auto* name = pop();
        const auto* module = pop();
        push_global(module->text, name->text);
        break;
      }  // STACK_GLOBAL
      case 'R':
      case 0x81:
        reduce();
        break;  // REDUCE, NEWOBJ
      case 'Q': {
        const auto* id = pop();
        push(Kind::kPersistent)->items = {id};
        break;
      }
      case 'b':
        build();
        break;  // BUILD
      default:
        complain(fmt::format("an opcode of plain data, got 0x{:02x}", opcode));
    }
    return true;
  }
  void push_double() {
    uint64_t bits = 0;
    for (const char byte : take(8)) bits = bits << 8 | static_cast<uint8_t>(byte);  // big-endian
    push(Kind::kFloat)->number = std::bit_cast<double>(bits);
  }
  void push_marked(Kind kind) {
    auto items = pop_to_mark();
    if (kind == Kind::kDict && items.size() % 2 != 0) complain("pairs for a dict");
    push(kind)->items = std::move(items);
  }

  std::string_view bytes_;
  const std::set<std::string>& globals_;
  const std::string& where_;
  size_t at_ = 0;
  size_t steps_ = 0;
  Pickle pickle_;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, PickleValue*> memo_;
};

}  // namespace

Pickle read_pickle(std::string_view bytes, const std::set<std::string>& globals,
                   const std::string& where) {
  return Reader(bytes, globals, where).read();
}

}  // namespace skipway
