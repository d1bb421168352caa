//! Names of the generated world.

/// Girls.
pub(super) const GIRLS: &[&str] = &[
    "Mia", "Anna", "Lily", "Emma", "Ella", "Zoe", "Lucy", "Rosa", "Nina", "Sara", "Eva", "Ruby",
    "Ivy", "Clara", "Maya", "Lena", "Amy", "Kate", "Jane", "Molly", "Tina", "Nora", "Hanna",
    "Leah", "Mary", "Alice", "Ada", "Bella", "Daisy", "Elsa", "Fiona", "Gina", "Helen", "Iris",
    "Julia", "Kira", "Lola", "Olga", "Paula", "Wendy",
];

/// Boys.
pub(super) const BOYS: &[&str] = &[
    "Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Tim", "Noah", "Finn", "Adam", "Luke", "Oscar",
    "Paul", "Peter", "Henry", "Jim", "Nick", "Dan", "Joe", "Carl", "Felix", "Hugo", "Ivan", "Kofi",
    "Liam", "Mark", "Owen", "Ravi", "Simon", "Theo", "Toby", "Alex", "David", "Eli", "Frank",
    "George", "Harry", "Omar", "Victor", "Will",
];

/// Names of pets.
pub(super) const PETS: &[&str] = &[
    "Pip", "Bobo", "Lulu", "Rex", "Coco", "Fluffy", "Spot", "Milo", "Tiki", "Bella", "Luna", "Momo",
];
