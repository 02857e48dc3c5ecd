# Deterministic work on strings, hashes, arrays and closures. Argument: how many words.
use strict;
use warnings;
use integer;

my $words = shift // 100_000;
my $seed  = 42;

sub random { $seed = ($seed * 1103515245 + 12345) & 0x7fffffff; return ($seed >> 8) % $_[0]; }

my (%count, %index, @lines);
for my $n (1 .. $words) {
    my $word = join '', map { chr(97 + random(26)) } 1 .. 2 + random(4);
    $count{$word}++;
    push @{ $index{ substr $word, 0, 2 } }, $word . ':' . $n;
    push @lines, "$n $word " . ('-' x random(40)) if $n % 2;
}
printf "%d words, %d heads\n", scalar keys %count, scalar keys %index;

my @common = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 4];
print join(' ', map { "$_=$count{$_}" } @common), "\n";

my $sum = 0;
for my $head (sort keys %index) {
    my $text = join ',', sort @{ $index{$head} };
    $text =~ s/([aeiou])(\w)/$2$1/g;
    $sum = ($sum * 31 + unpack '%32C*', $text) & 0xffffffff;
}
print "$sum\n";

my @adders = map { my $n = $_; sub { $n + $_[0] } } 1 .. $words / 4;
my $total = 0;
$total += $adders[ random(scalar @adders) ]->($_) for 1 .. $words / 2;
print "$total\n";

my $grown = '';
for my $line (grep { /[xyz].*-{20}/ } @lines) { $grown .= lc(reverse $line) . "\n"; }
print length($grown), ' ', unpack('%32C*', $grown), "\n";
delete @count{ grep { $count{$_} < 2 } keys %count };
print scalar(keys %count), "\n";
